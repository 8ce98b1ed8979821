"""Aligned Xception as timm names it, and HRNet as its authors and timm do."""

from __future__ import annotations

from panoptic_tf.checkpoints import names
from panoptic_tf.checkpoints.names import Description, Source
from panoptic_tf.checkpoints.sources.settings import HALF, IMAGENET, settings

_XCEPTION: names.Rules = (
    # Counted from 0 there, from 1 here.
    (r"^stem/1/", "stem/conv2/"),
    (r"^stem/0/", "stem/conv1/"),
    (r"^blocks/(\d+)/shortcut/", r"block_\1/shortcut/"),
    (r"^blocks/(\d+)/stack/conv(\d)/(conv|bn)_dw$", r"block_\1/conv\2/depthwise/\3"),
    (r"^blocks/(\d+)/stack/conv(\d)/(conv|bn)_pw$", r"block_\1/conv\2/pointwise/\3"),
    (r"/bn$", "/norm"),
    (r"^", "backbone/"),
)

# Three indices are a 1x1 convolution from a coarser branch, four a chain of strided ones.
_HRNET: names.Rules = (
    (r"^(conv\d)$", r"stem/\1/conv"),
    (r"^bn(\d)$", r"stem/conv\1/norm"),
    (r"^layer1/", "stage1_"),
    (r"/downsample/", "/shortcut/"),
    *((rf"^transition{i}/(\d)/", rf"transition{i + 1}_\1/") for i in (3, 2, 1)),
    (r"^(transition\d_\d)/(?:0/)?([01])$", r"\1/\2"),
    (r"^stage(\d)/(\d+)/branches/(\d)/(\d+)/", r"stage\1_\2/branch\3_\4/"),
    (r"^stage(\d)/(\d+)/fuse_layers/(\d)/(\d)/([01])$", r"stage\1_\2/fuse\3_\4_0/\5"),
    (r"^stage(\d)/(\d+)/fuse_layers/(\d)/(\d)/(\d)/([01])$", r"stage\1_\2/fuse\3_\4_\5/\6"),
    (r"^((?:transition|stage).*)/0$", r"\1/conv"),
    (r"^((?:transition|stage).*)/1$", r"\1/norm"),
    (r"^(stage.*/conv\d)$", r"\1/conv"),
    (r"^(stage.*)/bn(\d)$", r"\1/conv\2/norm"),
    (r"^", "backbone/"),
)

names.register_source(
    Source(
        title="an aligned Xception of timm",
        signature=(
            r"^stem\.1\.conv\.weight$",
            r"^blocks\.0\.shortcut\.bn\.weight$",
            r"^blocks\.0\.stack\.conv1\.bn_dw\.weight$",
        ),
        rules=_XCEPTION,
        ignored=(r"^head\.",),
        describe=lambda checkpoint: Description(settings(HALF, norm_epsilon=1e-3)),
    )
)
names.register_source(
    Source(
        title="an HRNet of its authors or timm",
        signature=(
            r"^conv2\.weight$",
            r"^stage4\.0\.fuse_layers\.3\.0\.2\.0\.weight$",
            r"^transition1\.1\.0\.0\.weight$",
        ),
        rules=_HRNET,
        ignored=(r"^(incre_modules|downsamp_modules|final_layer|classifier)\.",),
        describe=lambda checkpoint: Description(settings(IMAGENET, norm_epsilon=1e-5)),
    )
)
