"""The commands that export.

The package has the name of the function `panoptic_tf.export`; called, it is that function.
"""

import sys
import types


class _Package(types.ModuleType):
    def __call__(self, *args, **kwargs):
        from panoptic_tf.api import exporting

        return exporting.export(*args, **kwargs)


sys.modules[__name__].__class__ = _Package
