"""Wrong inputs of every command: arguments, and what standard error must say; {tmp} is a folder."""

SHAPES = "--experiment=panoptic_deeplab_shapes"
TRAIN = ["train", SHAPES, "--mode=train", "--model_dir={tmp}/new"]
ANALYZE = ["analyze", SHAPES]
EVALUATE = ["evaluate", SHAPES, "--output_dir={tmp}/out"]
EXPORT = ["export-saved-model", SHAPES, "--export_dir={tmp}/out"]
TFLITE = ["export-tflite", SHAPES, "--tflite_path={tmp}/out/model.tflite"]
ONNX = ["export-onnx", SHAPES, "--onnx_path={tmp}/out/model.onnx"]
SCORE = [
    "score",
    "--panoptic_json={tmp}/shapes/panoptic.json",
    "--output_dir={tmp}/out",
    "--num_processes=1",
]
REQUEST = ["request", "--input={tmp}/shapes/images", "--output_dir={tmp}/out"]
CONVERT = ["convert", "--image_dir={tmp}/shapes/images", "--output_dir={tmp}/out"]
BENCHMARK = ["benchmark", "--tflite_path={tmp}/fake.tflite"]
IMAGES = "--input={tmp}/shapes/images"


def override(values):
    """Arguments of the cheapest command that reads a config."""
    return [*ANALYZE, f"--params_override={values}"]


FLAGS = {
    "no command": (["trian"], ["no command 'trian'", "Did you mean train?"], 2),
    "no experiment": (["train"], ["no experiment is named", "--experiment", "--config_file"]),
    "a typo in the experiment": (
        ["train", "--experiment=panoptic_fpn_resnet50_coc"],
        ["--experiment=panoptic_fpn_resnet50_coc", "panoptic_fpn_resnet50_coco"],
    ),
    "no folder of the run": (["train", SHAPES], ["no folder is named", "--model_dir"]),
    "an experiment of no resemblance": (
        ["analyze", "--experiment=zzz"],
        ["no such experiment", "panoptic_deeplab_shapes"],
    ),
    "mode": (
        ["train", SHAPES, "--mode=trian", "--model_dir={tmp}/new"],
        ["one of train, train_and_eval, eval, continuous_eval.", "Did you mean train?"],
    ),
    "mode that is not implemented": (
        ["train", SHAPES, "--mode=train_and_validate", "--model_dir={tmp}/new"],
        ["--mode=train_and_validate", "one of train, train_and_eval, eval"],
    ),
    "epochs": ([*TRAIN, "--epochs=5"], ["no flag --epochs", "trainer.train_steps"]),
    "lr": ([*TRAIN, "--lr=0.1"], ["no flag --lr", "optimizer_config.learning_rate"]),
    "batch size": ([*TRAIN, "--batch_size=4"], ["task.train_data.global_batch_size"]),
    "input of train": ([*TRAIN, "--input_path=x"], ["task.train_data.input_path"]),
    "weights": ([*TRAIN, "--weights=x"], ["task.init_checkpoint"]),
    "gpus": ([*TRAIN, "--gpus=1"], ["no flag --gpus", "--num_gpus"]),
    "a typo": ([*TRAIN, "--modeldir=x"], ["no flag --modeldir", "--model_dir"]),
    "a typo without a config": (["shapes", "--num_image=2"], ["--num_images", "missing"][:1]),
    "no number": ([*TRAIN, "--num_gpus=two"], ["--num_gpus=two", "non-negative integer"]),
    "below the bound": ([*TRAIN, "--logical_cpus=0"], ["--logical_cpus=0", "positive"]),
    "no truth value": (
        [*EVALUATE, "--write_predictions=maybe"],
        ["--write_predictions=maybe", "true or false"],
    ),
    "an argument that is no flag": ([*ANALYZE, "surplus"], ["unexpected arguments", "surplus"]),
    "flagfile": ([*ANALYZE, "--flagfile={tmp}/nope"], ["nope"]),
    "precision": ([*TRAIN, "--mixed_precision=half"], ["float32, bfloat16, float16"]),
}

CONFIGS = {
    "files of two experiments": (
        ["analyze", "--config_file={tmp}/fpn.yaml", "--config_file={tmp}/fcn.yaml"],
        ["fcn.yaml is for the experiment panoptic_fcn_shapes", "fpn.yaml for panoptic_fpn_shapes"],
    ),
    "a file of no experiment": (
        ["analyze", "--config_file={tmp}/typo.yaml"],
        ["panoptic_fpn_shape:", "Did you mean panoptic_fpn_shapes"],
    ),
    "a number for an experiment": (
        ["analyze", "--config_file={tmp}/number.yaml"],
        ["number.yaml: experiment must be a text, got 7"],
    ),
    "mode in a file": (
        ["train", "--config_file={tmp}/mode.yaml", "--model_dir={tmp}/new"],
        ["mode.yaml: mode must be one of train, train_and_eval", "Did you mean train?"],
    ),
    "a run that does not name its experiment": (
        ["analyze", "--model_dir={tmp}/deeplab_run"],
        ["params.yaml does not name its experiment", "--experiment=panoptic_deeplab_shapes"],
    ),
    "no such file": ([*ANALYZE, "--config_file={tmp}/nope.yaml"], ["nope.yaml", "No such file"]),
    "a folder": ([*ANALYZE, "--config_file={tmp}/empty"], ["{tmp}/empty"]),
    "no mapping": ([*ANALYZE, "--config_file={tmp}/list.yaml"], ["list.yaml", "keys with values"]),
    "broken": ([*ANALYZE, "--config_file={tmp}/broken.yaml"], ["broken.yaml is not YAML", "line"]),
    "nested": ([*ANALYZE, "--config_file={tmp}/deep.yaml"], ["deep.yaml"]),
    "binary": ([*ANALYZE, "--config_file={tmp}/binary.yaml"], ["binary.yaml"]),
    "wrong key in a file": (
        [*ANALYZE, "--config_file={tmp}/wrong_key.yaml"],
        ["wrong_key.yaml", "no key task.train_dat.", "Did you mean task.train_data?"],
    ),
    "wrong type in a file": (
        [*ANALYZE, "--config_file={tmp}/wrong_type.yaml"],
        ["wrong_type.yaml", "trainer.train_steps", "a whole number", "'many'"],
    ),
    "a word": (override("foo"), ["--params_override: 'foo'", "key=value"]),
    "a key alone": (override("task.train_data.input_path"), ["key=value"]),
    "a file that is not there": (override("{tmp}/nope.yaml"), ["nope.yaml", "No such file"]),
    "wrong key": (
        override("task.train_data.inputpath=x"),
        ["no key task.train_data.inputpath", "Did you mean task.train_data.input_path?"],
    ),
    "key without its path": (override("train_steps=5"), ["Did you mean trainer.train_steps?"]),
    "key of nothing": (override("a.b.c=1"), ["no key a.", "task, trainer, runtime"]),
    "text for a number": (
        override("task.train_data.global_batch_size=abc"),
        ["task.train_data.global_batch_size", "a whole number", "'abc'"],
    ),
    "fraction for a number": (override("trainer.train_steps=1.5"), ["a whole number", "1.5"]),
    "exponent": (override("trainer.train_steps=1e5"), ["got 100000.0. Write 100000."]),
    "number for a list": (
        override("task.model.train_size=128"),
        ["task.model.train_size", "a list of whole numbers such as [128, 128]", "got 128"],
    ),
    "short list": (override("task.model.input_size=[128]"), ["[height, width]", "got [128]"]),
    "texts in a list": (override("task.normalization.mean=[a,b]"), ["a list of numbers"]),
    "text for a truth value": (override("task.train_data.cache=maybe"), ["true or false"]),
    "number for a text": (override("task.dataset_info=7"), ["a text, got 7", "Quote it"]),
    "value for keys": (override("task.model.backbone=resnet50"), ["task.model.backbone.name"]),
    "keys for a value": (override("trainer.train_steps.x=1"), ["trainer.train_steps"]),
    "not a number": (override("task.losses.center_weight=.nan"), ["center_weight", "nan"]),
    "null": (override("{task: {losses: null}}"), ["task.losses"]),
    "choice": (
        override("trainer.optimizer_config.optimizer.type=sdg"),
        ["optimizer.type must be one of", "sgd"],
    ),
    "data set": (override("task.dataset_info=nope"), ["nope"]),
    "backbone": (override("task.model.backbone.name=resnet51"), ["resnet51", "resnet50"]),
    "option of a backbone": (override("task.model.backbone.options.foo=1"), ["foo"]),
    "norm": (override("task.model.backbone.norm=bathc"), ["bathc", "batch"]),
    "stride": (override("task.model.backbone.output_stride=7"), ["output_stride", "7"]),
}

COMMANDS = {
    "own data without a source": (["init", "--output_dir={tmp}/out"], ["give --source"]),
    "own data of no folder": (
        ["init", "--source={tmp}/nope", "--output_dir={tmp}/out"],
        ["{tmp}/nope", "no such file or folder"],
    ),
    "report on no run": (["report", "--model_dir={tmp}/empty"], ["{tmp}/empty", "no checkpoint"]),
    "report without flags": (["report"], ["missing: --model_dir"]),
    "size of no meaning": ([*ANALYZE, "--input_image_size=a,b"], ["--input_image_size", "a,b"]),
    "size that does not fit": (
        [
            "analyze",
            "--experiment=panoptic_deeplab_resnet52_coco",
            "--input_image_size=256,256",
        ],
        ["256x256", "pool_size (40, 40) does not fit", "Use a smaller window"],
    ),
    "report into a folder": ([*ANALYZE, "--output_json={tmp}/empty"], ["{tmp}/empty is a folder"]),
    "report below a file": ([*ANALYZE, "--output_json={tmp}/a_file/x"], ["a_file is not a folder"]),
    "model_dir is a file": ([*TRAIN[:-1], "--model_dir={tmp}/a_file"], ["--model_dir", "a_file"]),
    "no init checkpoint": (
        [*TRAIN, "--params_override=task.init_checkpoint={tmp}/nope/ckpt-1"],
        ["task.init_checkpoint", "{tmp}/nope/ckpt-1"],
    ),
    "init checkpoint of text": (
        [*TRAIN, "--params_override=task.init_checkpoint={tmp}/a_file"],
        ["task.init_checkpoint", "a_file"],
    ),
    "nothing to evaluate": (
        ["evaluate", "--output_dir={tmp}/out"],
        ["--model_dir, --checkpoint_path, --saved_model_dir or --onnx_path"],
    ),
    "no output": (["evaluate", SHAPES], ["missing: --output_dir"]),
    "no checkpoint": ([*EVALUATE, "--model_dir={tmp}/empty"], ["{tmp}/empty", "no checkpoint"]),
    "no prefix": ([*EVALUATE, "--checkpoint_path={tmp}/nope/ckpt-1"], ["nope/ckpt-1"]),
    "output below a file": (
        [*EVALUATE[:-1], "--output_dir={tmp}/a_file/x", "--model_dir={tmp}/deeplab_run"],
        ["--output_dir", "a_file is not a folder"],
    ),
    "no records": (
        [*EVALUATE, "--model_dir={tmp}/deeplab_run", "--input_path={tmp}/nope-*"],
        ["nope-*", "no file"],
    ),
    "no records to train on": (
        [*TRAIN, "--params_override=task.train_data.input_path={tmp}/nope-*"],
        ["nope-*", "no file"],
    ),
    "no steps": ([*TRAIN, "--params_override=trainer.train_steps=0"], ["trainer.train_steps"]),
    "a GPU that is not there": ([*TRAIN, "--num_gpus=64"], ["--num_gpus", "64", "sees"]),
    "a task without hosts": ([*TRAIN, "--task_index=1"], ["--task_index=1", "--worker_hosts"]),
    "a picture for records": (
        [*EVALUATE, "--model_dir={tmp}/deeplab_run", "--input_path={tmp}/records/picture.png"],
        ["picture.png"],
    ),
    "another system's run": (
        [
            "evaluate",
            "--experiment=panoptic_fpn_shapes",
            "--model_dir={tmp}/deeplab_run",
            "--output_dir={tmp}/out",
        ],
        ["deeplab_run holds", "panoptic_fpn_shapes", "panoptic_deeplab_shapes"],
    ),
    "a named run of another system": (
        [
            "evaluate",
            "--experiment=panoptic_fpn_shapes",
            "--model_dir={tmp}/named_run",
            "--output_dir={tmp}/out",
        ],
        ["named_run holds", "panoptic_fpn_shapes", "panoptic_deeplab_shapes"],
    ),
    "SavedModel without records": (
        ["evaluate", "--saved_model_dir={tmp}/empty", "--output_dir={tmp}/out"],
        ["--input_path"],
    ),
    "SavedModel and a configuration": (
        [
            "evaluate",
            "--saved_model_dir={tmp}/empty",
            "--input_path={tmp}/records/val-*",
            "--num_gpus=0",
            "--output_dir={tmp}/out",
        ],
        ["--num_gpus does not go together with --saved_model_dir"],
    ),
    "a run for a SavedModel": (
        [
            "evaluate",
            "--saved_model_dir={tmp}/deeplab_run",
            "--input_path={tmp}/records/val-*",
            "--output_dir={tmp}/out",
        ],
        ["--saved_model_dir", "{tmp}/deeplab_run", "Expected a SavedModel"],
    ),
    "no SavedModel": (
        [
            "evaluate",
            "--saved_model_dir={tmp}/empty",
            "--input_path={tmp}/records/val-*",
            "--output_dir={tmp}/out",
        ],
        ["{tmp}/empty"],
    ),
    "export of nothing": ([*EXPORT, "--checkpoint_path={tmp}/empty"], ["no checkpoint"]),
    "export without a checkpoint": (EXPORT, ["missing: --checkpoint_path"]),
    "export of another system's run": (
        [
            "export-saved-model",
            "--experiment=panoptic_fcn_shapes",
            "--checkpoint_path={tmp}/deeplab_run",
            "--export_dir={tmp}/out",
        ],
        ["deeplab_run holds", "panoptic_deeplab_shapes"],
    ),
    "export below a file": (
        [*EXPORT[:-1], "--export_dir={tmp}/a_file", "--checkpoint_path={tmp}/deeplab_run"],
        ["--export_dir", "a_file is not a folder"],
    ),
    "warm-up sizes": (
        [*EXPORT, "--checkpoint_path={tmp}/deeplab_run", "--warmup_batch_sizes=1,x"],
        ["--warmup_batch_sizes", "1,x"],
    ),
    "input type": ([*EXPORT, "--input_type=jpeg"], ["--input_type=jpeg", "image_bytes"]),
    "size of the export": (
        [*EXPORT, "--checkpoint_path={tmp}/deeplab_run", "--input_image_size=0"],
        ["--input_image_size"],
    ),
    "quantisation": ([*TFLITE, "--quantization=int4"], ["--quantization=int4", "int8"]),
    "part": ([*TFLITE, "--part=heads"], ["--part=heads", "semantic"]),
    "int8 without images": (
        [*TFLITE, "--checkpoint_path={tmp}/deeplab_run", "--quantization=int8"],
        ["--calibration_path"],
    ),
    "calibration with nothing": (
        [
            *TFLITE,
            "--checkpoint_path={tmp}/deeplab_run",
            "--quantization=int8",
            "--calibration_path={tmp}/nope-*",
        ],
        ["calibration_path", "nope-*"],
    ),
    "float layers": (
        [
            *TFLITE,
            "--checkpoint_path={tmp}/deeplab_run",
            "--quantization=int8",
            "--calibration_path={tmp}/records/val-*",
            "--float_layers=(",
        ],
        ["--float_layers"],
    ),
    "tflite into a folder": (
        [*TFLITE[:-1], "--tflite_path={tmp}/empty", "--checkpoint_path={tmp}/deeplab_run"],
        ["--tflite_path", "{tmp}/empty is a folder"],
    ),
    "onnx without flags": (
        ["export-onnx"],
        ["missing: ", "--checkpoint_path", "--onnx_path"],
    ),
    "onnx of another ending": (
        [*ONNX[:-1], "--onnx_path={tmp}/out/model.pb", "--checkpoint_path={tmp}/deeplab_run"],
        ["--onnx_path={tmp}/out/model.pb must end in .onnx"],
    ),
    "onnx below a file": (
        [*ONNX[:-1], "--onnx_path={tmp}/a_file/m.onnx", "--checkpoint_path={tmp}/deeplab_run"],
        ["--onnx_path", "a_file is not a folder"],
    ),
    "onnx of one side": (
        [*ONNX, "--checkpoint_path={tmp}/deeplab_run", "--input_image_size=0,64"],
        ["--input_image_size must be height,width"],
    ),
    "quantisation of onnx": ([*ONNX, "--quantization=int8"], ["no flag --quantization"]),
    "target of onnx": ([*ONNX, "--target=cpu"], ["no flag --target"]),
    "onnx and an argument": (
        [*ONNX, "--checkpoint_path={tmp}/deeplab_run", "surplus"],
        ["unexpected arguments", "surplus"],
    ),
    "no .tflite": (
        [
            "evaluate-tflite",
            "--tflite_path={tmp}/nope.tflite",
            "--input_path={tmp}/records/val-*",
            "--output_dir={tmp}/out",
        ],
        ["nope.tflite"],
    ),
    "a run for a .tflite": (
        [
            "evaluate-tflite",
            "--tflite_path={tmp}/deeplab_run",
            "--input_path={tmp}/records/val-*",
            "--output_dir={tmp}/out",
        ],
        ["--tflite_path", "{tmp}/deeplab_run", "panoptic-tf evaluate"],
    ),
    "a .tflite of zeros": (
        [
            "evaluate-tflite",
            "--tflite_path={tmp}/fake.tflite",
            "--input_path={tmp}/records/val-*",
            "--output_dir={tmp}/out",
        ],
        ["fake.tflite"],
    ),
    "evaluate-tflite on nothing": (
        [
            "evaluate-tflite",
            "--tflite_path={tmp}/fake.tflite",
            "--input_path={tmp}/nope-*",
            "--output_dir={tmp}/out",
        ],
        ["nope-*"],
    ),
    "evaluate-tflite without flags": (
        ["evaluate-tflite"],
        ["missing: --tflite_path, --input_path, --output_dir"],
    ),
    "a page without a model": (
        ["export-web", "--tflite_path={tmp}/nope.tflite", "--output_dir={tmp}/out"],
        ["nope.tflite", "expected a .tflite file"],
    ),
    "a page of zeros": (
        ["export-web", "--tflite_path={tmp}/fake.tflite", "--output_dir={tmp}/out"],
        ["fake.tflite"],
    ),
    "export-web without flags": (["export-web"], ["missing: --tflite_path, --output_dir"]),
    "import of nothing": (
        ["import-checkpoint", "--source={tmp}/nope.pkl", "--output_dir={tmp}/out"],
        ["nope.pkl"],
    ),
    "import of no weights": (
        ["import-checkpoint", "--source={tmp}/fake.pkl", "--output_dir={tmp}/out"],
        ["fake.pkl"],
    ),
    "import into a full folder": (
        ["import-checkpoint", "--source={tmp}/fake.pkl", "--output_dir={tmp}/a_file"],
        ["--output_dir", "a_file"],
    ),
    "request without flags": (
        ["request"],
        ["missing: --address, --dataset_info, --input, --output_dir"],
    ),
    "an address without a protocol": (
        [*REQUEST, "--address=localhost:8500", "--dataset_info=shapes"],
        ["address must be grpc://host:port", "'localhost:8500'"],
    ),
    "an address without such a port": (
        [*REQUEST, "--address=grpc://localhost:99999", "--dataset_info=shapes"],
        ["address must be grpc://host:port", "1..65535", "'grpc://localhost:99999'"],
    ),
    "a timeout without end": (
        [*REQUEST, "--address=grpc://localhost:1", "--dataset_info=shapes", "--timeout=inf"],
        ["--timeout=inf", "86400"],
    ),
    "categories of no file": (
        [*REQUEST, "--address=grpc://localhost:1", "--dataset_info={tmp}/nope.json"],
        ["nope.json", "dataset_info.json"],
    ),
    "a signature of pixels": (
        [*REQUEST, "--address=grpc://localhost:1", "--signature=image_tensor"],
        ["--signature=image_tensor", "image_bytes, panoptic_png"],
    ),
    "demo below a file": (["demo", "--output_dir={tmp}/a_file/x"], ["a_file is not a folder"]),
    "demo without images": (["demo", "--num_train_images=0"], ["--num_train_images=0"]),
    "shapes below a file": (["shapes", "--output_dir={tmp}/a_file/x"], ["a_file"]),
    "seed of both splits": (["shapes", "--output_dir={tmp}/out", "--seed=1"], ["--split=train"]),
    "shapes of no size": (
        ["shapes", "--output_dir={tmp}/out", "--size=0", "--num_processes=1"],
        ["size"],
    ),
}

DATA = {
    "doctor of nothing": (["doctor"], ["--input_path, --panoptic_json and --format"]),
    "doctor of no records": (["doctor", "--input_path={tmp}/nope-*"], ["nope-*"]),
    "doctor of a picture": (["doctor", "--input_path={tmp}/records/picture.png"], ["picture.png"]),
    "doctor of no JSON": (["doctor", "--panoptic_json={tmp}/nope.json"], ["nope.json"]),
    "doctor of broken JSON": (["doctor", "--panoptic_json={tmp}/broken.json"], ["broken.json"]),
    "doctor of nested JSON": (["doctor", "--panoptic_json={tmp}/deep.yaml"], ["deep.yaml"]),
    "doctor mends records": (
        ["doctor", "--input_path={tmp}/records/*", "--fix_to={tmp}/mended"],
        ["--fix_to corrects --panoptic_json"],
    ),
    "doctor mends into a full folder": (
        ["doctor", "--panoptic_json={tmp}/shapes/panoptic.json", "--fix_to={tmp}"],
        ["fix_to must name a folder that is empty"],
    ),
    "doctor mends one of two": (
        [
            "doctor",
            "--panoptic_json={tmp}/shapes/panoptic.json",
            "--format=coco_instances",
            "--source={tmp}/shapes/panoptic.json",
            "--image_dir={tmp}/shapes/images",
            "--fix_to={tmp}/mended",
        ],
        ["--input_path, --panoptic_json and --format"],
    ),
    "doctor writes below a file": (
        ["doctor", "--panoptic_json={tmp}/nope.json", "--output_json={tmp}/a_file/x.json"],
        ["--output_json", "a_file is not a folder"],
    ),
    "doctor writes a page to a folder": (
        ["doctor", "--panoptic_json={tmp}/nope.json", "--output_html={tmp}"],
        ["--output_html", "is a folder"],
    ),
    "inspect below a file": (
        ["inspect", "--panoptic_json={tmp}/nope.json", "--output_dir={tmp}/a_file/x"],
        ["a_file/x"],
    ),
    "inspect of nothing": (
        ["inspect", "--output_dir={tmp}/look"],
        ["--input_path, --panoptic_json and --format"],
    ),
    "inspect to nowhere": (["inspect", "--input_path=x"], ["--output_dir"]),
    "convert without flags": (
        ["convert"],
        ["missing: --output_dir"],
    ),
    "convert without annotations": (
        ["convert", "--output_dir={tmp}/out"],
        ["--format=coco_panoptic needs --panoptic_json, --image_dir"],
    ),
    "convert into shares that are none": (
        [*CONVERT, "--panoptic_json={tmp}/shapes/panoptic.json", "--split=train:0.8,val:0.3"],
        ["train:0.8,val:0.3", "sum to 1"],
    ),
    "convert with options of a runner that is not asked for": (
        [
            *CONVERT,
            "--panoptic_json={tmp}/shapes/panoptic.json",
            "--beam_options=runner=DirectRunner",
        ],
        ["--beam_options", "--runner=beam"],
    ),
    "convert by processes and by Beam": (
        [*CONVERT, "--panoptic_json={tmp}/nope.json", "--runner=beam", "--num_processes=2"],
        ["num_processes", "direct_num_workers"],
    ),
    "convert of no JSON": ([*CONVERT, "--panoptic_json={tmp}/nope.json"], ["nope.json"]),
    "convert of a list": ([*CONVERT, "--panoptic_json={tmp}/list.json"], ["list.json"]),
    "convert without categories": (
        [*CONVERT, "--panoptic_json={tmp}/no_categories.json"],
        ["no_categories.json", "categories"],
    ),
    "convert without PNGs": (
        [*CONVERT, "--panoptic_json={tmp}/shapes/panoptic.json", "--panoptic_dir={tmp}/empty"],
        ["{tmp}/empty"],
    ),
    "convert below a file": (
        [*CONVERT[:-1], "--panoptic_json={tmp}/shapes/panoptic.json", "--output_dir={tmp}/a_file"],
        ["a_file"],
    ),
    "format": (
        [*CONVERT, "--panoptic_json={tmp}/shapes/panoptic.json", "--format=voc"],
        ["--format=voc", "coco_panoptic"],
    ),
    "shards": (
        [*CONVERT, "--panoptic_json={tmp}/shapes/panoptic.json", "--num_shards=0"],
        ["--num_shards=0"],
    ),
    "score without flags": (
        ["score"],
        ["missing: --panoptic_json, --predictions_json, --output_dir"],
    ),
    "score of no JSON": ([*SCORE, "--predictions_json={tmp}/nope.json"], ["nope.json"]),
    "score of broken JSON": ([*SCORE, "--predictions_json={tmp}/broken.json"], ["broken.json"]),
    "score without PNGs": (
        [
            *SCORE,
            "--predictions_json={tmp}/shapes/panoptic.json",
            "--predictions_dir={tmp}/empty",
        ],
        ["{tmp}/empty"],
    ),
    "crowd rule": (
        [*SCORE, "--predictions_json={tmp}/shapes/panoptic.json", "--crowd_rule=some"],
        ["--crowd_rule=some", "all, last"],
    ),
    "predict without a model": (
        ["predict", "--input={tmp}/fake.png", "--output_dir={tmp}/out"],
        ["exactly one of --saved_model_dir, --tflite_path"],
    ),
    "predict with two models": (
        [
            "predict",
            "--input={tmp}/fake.png",
            "--output_dir={tmp}/out",
            "--saved_model_dir=x",
            "--tflite_path=y",
        ],
        ["exactly one of --saved_model_dir, --tflite_path"],
    ),
    "predict to a format that there is not": (
        [
            "predict",
            "--input={tmp}/fake.png",
            "--output_dir={tmp}/out",
            "--saved_model_dir=x",
            "--write=yolo",
        ],
        ["--write: formats must be of overlays", "yolo"],
    ),
    "predict videos by Beam": (
        [
            "predict",
            "--tflite_path={tmp}/none.tflite",
            "--video={tmp}/none.mp4",
            "--runner=beam",
            "--output_dir={tmp}/out",
        ],
        ["--runner=beam", "no videos"],
    ),
    "predict frames of photographs": (
        [
            "predict",
            "--tflite_path={tmp}/none.tflite",
            IMAGES,
            "--max_frames=5",
            "--output_dir={tmp}/out",
        ],
        ["--max_frames is read with videos and cameras only"],
    ),
    "predict without flags": (
        ["predict"],
        ["missing: --output_dir.", "exactly one of --input, --video, --camera must be given"],
    ),
    "predict photographs and videos at once": (
        [
            "predict",
            "--input={tmp}/clip.mp4",
            "--input={tmp}/fake.png",
            "--output_dir={tmp}/out",
            "--saved_model_dir=x",
        ],
        ["clip.mp4 is a video, {tmp}/fake.png is none", "two commands"],
    ),
    "predict in tiles of no size": (
        [
            "predict",
            "--input={tmp}/fake.png",
            "--output_dir={tmp}/out",
            "--saved_model_dir=x",
            "--tile_size=64,a",
        ],
        ["--tile_size must be a side or height,width, whole numbers, got '64,a'"],
    ),
    "predict in tiles that overlap too much": (
        [
            "predict",
            "--input={tmp}/fake.png",
            "--output_dir={tmp}/out",
            "--saved_model_dir=x",
            "--tile_size=64",
            "--tile_overlap=33",
        ],
        ["tile_overlap must lie in 0..32", "got 33"],
    ),
    "predict with no SavedModel": (
        [
            "predict",
            "--input={tmp}/fake.png",
            "--output_dir={tmp}/out",
            "--saved_model_dir={tmp}/empty",
        ],
        ["{tmp}/empty"],
    ),
    "predict with a text": (
        [
            "predict",
            "--input={tmp}/fake.png",
            "--output_dir={tmp}/out",
            "--tflite_path={tmp}/a_file",
        ],
        ["a_file"],
    ),
    "a pattern without quotes": (
        [
            "predict",
            "--input=a.png",
            "b.png",
            "--output_dir={tmp}/out",
            "--tflite_path={tmp}/a_file",
        ],
        ["b.png", "Quote the pattern"],
    ),
}

MEASURED = {
    "benchmark of no model": (
        ["benchmark", IMAGES],
        ["exactly one of --saved_model_dir, --tflite_path, --onnx_path, --address"],
    ),
    "benchmark of no images": (BENCHMARK, ["exactly one of --input, --input_image_size"]),
    "benchmark of a signature without a server": (
        [*BENCHMARK, IMAGES, "--signature=panoptic_png"],
        ["--signature is read with --address only"],
    ),
    "benchmark of a model that is not there": (
        ["benchmark", "--tflite_path={tmp}/nope.tflite", IMAGES],
        ["nope.tflite: no such file or folder"],
    ),
    "benchmark of a broken image": (
        [*BENCHMARK, "--input={tmp}/fake.png"],
        ["fake.png is damaged or truncated"],
    ),
    "benchmark of images of no size": (
        [*BENCHMARK, "--input_image_size=0"],
        ["--input_image_size must be height,width"],
    ),
    "benchmark of no batch": (
        [*BENCHMARK, IMAGES, "--batch_sizes=1,0"],
        ["--batch_sizes must be whole numbers above 0", "'1,0'"],
    ),
    "benchmark of no threads": ([*BENCHMARK, IMAGES, "--threads=many"], ["--threads", "'many'"]),
    "benchmark of a file, at once": (
        [*BENCHMARK, IMAGES, "--concurrency=2"],
        ["--concurrency is of addresses"],
    ),
    "benchmark of a server's threads": (
        ["benchmark", "--address=grpc://localhost:1", IMAGES, "--threads=1"],
        ["--threads and --decoded are of models that are loaded here"],
    ),
    "benchmark of unknown categories": (
        ["benchmark", "--address=grpc://localhost:1", IMAGES],
        ["--address needs --dataset_info"],
    ),
    "benchmark below a file": (
        [*BENCHMARK, IMAGES, "--output_json={tmp}/a_file/rows.json"],
        ["--output_json", "a_file is not a folder"],
    ),
}

ALL = {**FLAGS, **CONFIGS, **COMMANDS, **DATA, **MEASURED}
assert len(ALL) == sum(map(len, (FLAGS, CONFIGS, COMMANDS, DATA, MEASURED)))
