"""Factors of learning rate and weight decay by variable, against steps written out in NumPy."""

import numpy as np
import pytest
import tensorflow as tf
from muon_reference import orthogonalize
from official.core import config_definitions as cfg
from official.core import exp_factory
from small_systems import ROWS, row_task

from panoptic_tf import addons
from panoptic_tf.api import configuration
from panoptic_tf.systems import optimization, variable_factors
from panoptic_tf.systems.variable_factors import Factors, FactorTable, VariableFactors

NAMES = ("backbone/conv/kernel", "backbone/norm/gamma", "head/kernel", "head/embedding")
ROWS_OF_FACTORS = (
    VariableFactors(pattern="^backbone/", learning_rate=0.1),
    VariableFactors(pattern="(gamma|embedding)$", weight_decay=0.0),
    VariableFactors(pattern="^head/kernel$", learning_rate=0.5, weight_decay=3.0),
    VariableFactors(pattern="conv", learning_rate=2.0),  # Of the backbone: 0.1 times 2.
)
FACTORS = (Factors(0.2, 1.0), Factors(0.1, 0.0), Factors(0.5, 3.0), Factors(1.0, 0.0))
STEPS, CLIP, DECAY = 3, 0.7, 0.3
RATE = {
    "schedule": "polynomial",
    "schedule_options": {"initial_learning_rate": 0.05, "end_learning_rate": 0.0},
}
OPTIONS = {
    "sgd": {"momentum": 0.9, "global_clipnorm": CLIP},
    "sgd_experimental": {"momentum": 0.9, "global_clipnorm": CLIP},
    "adamw": optimization.adamw_options(weight_decay=DECAY, clip_norm=CLIP, beta_2=0.95),
    "adamw_experimental": {"weight_decay": DECAY, "global_clipnorm": CLIP, "beta_2": 0.95},
    "muon": optimization.adamw_options(
        weight_decay=DECAY, clip_norm=CLIP, beta_2=0.95, rms_rate=0.7, momentum=0.8
    ),
}


def start():
    """Weights and the gradients of each step: by variable, of both replicas together."""
    rng = np.random.default_rng(0)
    shapes = [(3, 2), (4,), (2, 5), (3,)]
    weights = [rng.normal(size=shape) for shape in shapes]
    return weights, [[rng.normal(size=shape) for shape in shapes] for _ in range(STEPS)]


def build_config(name, by_variable=ROWS_OF_FACTORS, ema=None, **arguments):
    arguments = {**RATE, "optimizer_options": OPTIONS.get(name, {}), **arguments}
    trainer = optimization.trainer_config(
        train_steps=10,
        optimizer=name,
        warmup_steps=2,
        ema=ema,
        by_variable=by_variable,
        **arguments,
    )
    return trainer.optimizer_config


def build_optimizer(config, names=NAMES, **runtime):
    task = row_task(ROWS[0])
    task._trained_names = names
    return task.create_optimizer(config, cfg.RuntimeConfig(**runtime))


def learning_rates():
    """Warm-up from 0 over two steps, then linear from where the schedule is by then."""
    rates = [0.05 * (1 - step / 10) for step in range(STEPS)]
    return [rates[2] * step / 2 if step < 2 else rates[step] for step in range(STEPS)]


def expected_weights(name, factors=FACTORS):
    """The weights after each step: clip all gradients together, decay, step, by the factors."""
    weights, gradients = start()
    moments = [np.zeros_like(w) for w in weights]
    squares = [np.zeros_like(w) for w in weights]
    found = []
    for step, (rate, of_step) in enumerate(zip(learning_rates(), gradients), 1):
        norm = np.sqrt(sum((g**2).sum() for g in of_step))
        of_step = [g * min(1.0, CLIP / norm) for g in of_step]
        for i, (gradient, (rate_factor, decay_factor)) in enumerate(zip(of_step, factors)):
            own_rate = rate * rate_factor
            if name.startswith("sgd"):
                moments[i] = 0.9 * moments[i] + own_rate * gradient
                weights[i] = weights[i] - moments[i]
                continue
            weights[i] = weights[i] * (1 - own_rate * DECAY * decay_factor)
            if name == "muon" and NAMES[i].endswith("kernel"):
                moments[i] = 0.8 * moments[i] + gradient
                change = orthogonalize(gradient + 0.8 * moments[i])
                weights[i] = weights[i] - own_rate * 0.7 * np.sqrt(max(change.shape)) * change
                continue
            moments[i] = 0.9 * moments[i] + 0.1 * gradient
            squares[i] = 0.95 * squares[i] + 0.05 * gradient**2
            corrected = np.sqrt(1 - 0.95**step) / (1 - 0.9**step)
            change = corrected * moments[i] / (np.sqrt(squares[i]) + 1e-7)
            weights[i] = weights[i] - own_rate * change
        found.append([w.copy() for w in weights])
    return found


def run(optimizer, variables, strategy=None, jit_compile=None):
    """Steps of an optimiser; two replicas have a quarter and three quarters of each gradient."""
    _, gradients = start()

    def step(*of_step):
        if strategy is not None:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            of_step = [tf.gather([0.25, 0.75], replica) * g for g in of_step]
        if hasattr(optimizer, "get_scaled_loss"):
            scaled = [optimizer.get_scaled_loss(g) for g in of_step]
            of_step = optimizer.get_unscaled_gradients(scaled)
        optimizer.apply_gradients(list(zip(of_step, variables)))

    whole = (lambda *of_step: strategy.run(step, args=of_step)) if strategy else step
    whole = tf.function(whole, jit_compile=jit_compile, autograph=False)
    for of_step in gradients:
        whole(*[tf.constant(g, tf.float32) for g in of_step])


def make_variables(weights=None):
    return [
        tf.Variable(weight, dtype=tf.float32, name=name)
        for weight, name in zip(weights or start()[0], NAMES)
    ]


def assert_close(variables, expected):
    for variable, weight in zip(variables, expected):
        np.testing.assert_allclose(variable, weight, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", list(OPTIONS))
def test_steps_are_those_of_numpy(name, dtype, replicas, mirrored):
    strategy = mirrored if replicas == 2 else tf.distribute.OneDeviceStrategy("CPU:0")
    with strategy.scope():
        variables = make_variables()
        optimizer = build_optimizer(build_config(name), mixed_precision_dtype=dtype)
        if hasattr(optimizer, "_create_all_weights"):
            optimizer._create_all_weights(variables)
    run(optimizer, variables, mirrored if replicas == 2 else None)
    expected = expected_weights(name)[-1]
    assert_close(variables, expected)
    if replicas == 2:
        for variable in variables:
            first, second = (copy.numpy() for copy in mirrored.experimental_local_results(variable))
            np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", list(OPTIONS))
def test_eagerly_and_compiled_by_xla(name):
    for eager, jit_compile in ((True, None), (False, True)):
        variables = make_variables()
        optimizer = build_optimizer(build_config(name))
        tf.config.run_functions_eagerly(eager)
        try:
            run(optimizer, variables, jit_compile=jit_compile)
        finally:
            tf.config.run_functions_eagerly(False)
        assert_close(variables, expected_weights(name)[-1])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
def test_averages_are_of_the_weights_with_factors(name, dtype):
    config = build_config(name, ema={"average_decay": 0.5, "dynamic_decay": False})
    with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        variables = make_variables()
        optimizer = build_optimizer(config, mixed_precision_dtype=dtype)
        module = tf.Module()
        module.trained = variables
        optimizer.shadow_copy(module)
        optimizer._create_all_weights(variables)
    run(optimizer, variables)
    averages = [np.zeros_like(weight) for weight in start()[0]]
    for of_step in expected_weights(name):
        averages = [0.5 * average + 0.5 * weight for average, weight in zip(averages, of_step)]
    assert_close(variables, expected_weights(name)[-1])
    assert_close([optimizer.get_slot(v, "average") for v in variables], averages)


def require_addons():
    try:
        addons.require("this test")
    except ImportError as error:
        pytest.skip(f"needs the extra: {error}")


NOT_PROPORTIONAL = ("addons/Lookahead", "addons/ProximalAdagrad")
ADDONS = [
    name for name in map("addons/{}".format, addons.OPTIMIZERS) if name not in NOT_PROPORTIONAL
]


@pytest.mark.parametrize(
    "name",
    [
        *("sgd", "sgd_experimental", "adam", "adam_experimental", "adamw", "adamw_experimental"),
        *("rmsprop", "adagrad", "lamb", "lars", "muon", *ADDONS),
    ],
)
def test_the_step_is_that_of_an_optimiser_with_another_learning_rate(name):
    """Of dense and of sparse gradients, in which a row is there twice."""
    if name in ADDONS:
        require_addons()
    options = {"lars": {"weight_decay_rate": DECAY, "eeta": 0.5}}.get(name, {})
    if name in ("adamw", "lamb"):
        options["weight_decay_rate"] = DECAY
    is_dense = name in ("lars", "lamb")  # These have no sparse step.

    def train(rate, by_variable):
        config = build_config(
            name,
            by_variable,
            optimizer_options=options,
            schedule="stepwise",
            schedule_options={"boundaries": [1], "values": [rate, 0.3 * rate]},
        )
        optimizer = build_optimizer(config, ["kernel", "table"])
        rng = np.random.default_rng(1)
        kernel = tf.Variable(rng.normal(size=(3, 4)), dtype=tf.float32, name="kernel")
        table = tf.Variable(rng.normal(size=(5, 3)), dtype=tf.float32, name="table")
        for _ in range(4):
            with tf.GradientTape() as tape:
                rows = table[1:4] if is_dense else tf.gather(table, [1, 3, 3])
                loss = tf.reduce_sum((rows @ kernel - 1.0) ** 2)
            gradients = tape.gradient(loss, [kernel, table])
            optimizer.apply_gradients(list(zip(gradients, [kernel, table])))
        return kernel.numpy(), table.numpy()

    expected = train(0.02, ())
    found = train(0.2, [VariableFactors(pattern=".", learning_rate=0.1)])
    for weight, same in zip(found, expected):
        np.testing.assert_allclose(weight, same, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize("name", ["addons/AdamW", "addons/SGDW"])
def test_decay_of_addons(name, is_sparse):
    """It is not multiplied by the learning rate, but by both factors; of rows with gradients."""
    require_addons()
    options = {"weight_decay": DECAY, **({"momentum": 0.9} if name == "addons/SGDW" else {})}
    config = build_config(name, optimizer_options={"options": options})
    variables = make_variables()
    gradients = [tf.zeros_like(variable) for variable in variables]
    if is_sparse:
        gradients = [tf.IndexedSlices(zeros[:1], tf.constant([1])) for zeros in gradients]
    build_optimizer(config).apply_gradients(list(zip(gradients, variables)))
    expected = [weight.copy() for weight in start()[0]]
    for weight, (rate, decay) in zip(expected, FACTORS):
        weight[1 if is_sparse else ...] *= 1 - DECAY * rate * decay
    assert_close(variables, expected)


@pytest.mark.parametrize("name", list(OPTIONS))
def test_a_factor_of_zero_leaves_a_variable_alone(name):
    config = build_config(name, [VariableFactors(pattern="^head/", learning_rate=0.0)])
    variables = make_variables()
    run(build_optimizer(config), variables)
    weights = [np.float32(weight) for weight in start()[0]]
    is_same = [np.array_equal(v, w) for v, w in zip(variables, weights)]
    assert is_same == [False, False, True, True]


@pytest.mark.parametrize("name", list(OPTIONS))
def test_checkpoints_hold_the_same_with_and_without_factors(name, tmp_path):
    def begin(by_variable):
        variables = make_variables()
        optimizer = build_optimizer(build_config(name, by_variable))
        checkpoint = tf.train.Checkpoint(variables=variables, optimizer=optimizer)
        return variables, optimizer, checkpoint

    variables, optimizer, checkpoint = begin(())
    run(optimizer, variables)
    before = checkpoint.write(str(tmp_path / "before"))
    variables, optimizer, checkpoint = begin(ROWS_OF_FACTORS)
    checkpoint.read(before).expect_partial()
    run(optimizer, variables)
    after = checkpoint.write(str(tmp_path / "after"))
    assert tf.train.list_variables(before) == tf.train.list_variables(after)
    # The first step after it has the moments of the three before.
    assert int(optimizer.iterations) == 2 * STEPS
    plain, optimizer, checkpoint = begin(())
    checkpoint.read(before).expect_partial()
    run(optimizer, plain)
    starts = [
        tf.train.load_variable(before, f"variables/{i}/.ATTRIBUTES/VARIABLE_VALUE")
        for i in range(4)
    ]
    changes = [v.numpy() - s for v, s in zip(variables, starts)]
    plain_changes = [v.numpy() - s for v, s in zip(plain, starts)]
    if name.startswith("sgd"):  # Nothing decays: changes are the factor's share.
        for change, whole, factors in zip(changes, plain_changes, FACTORS):
            np.testing.assert_allclose(change, factors.learning_rate * whole, rtol=1e-4, atol=1e-6)


def test_factors_of_a_variable_are_products():
    table = FactorTable(ROWS_OF_FACTORS)
    for variable, factors in zip(make_variables(), FACTORS):
        assert table.of(variable) == pytest.approx(factors)
    assert FactorTable().of(tf.Variable(1.0, name="any")) == Factors(1.0, 1.0)


def test_copies_of_replicas_have_the_name_of_the_variable(mirrored):
    with mirrored.scope():
        variable = tf.Variable(1.0, name="head/norm/gamma")
    copies = mirrored.experimental_local_results(variable)
    assert [variable_factors.name_of(copy) for copy in copies] == ["head/norm/gamma"] * 2


def test_weight_decay_of_the_task_has_factors():
    optimizer = build_optimizer(build_config("sgd"))
    variables = make_variables()
    zeros = [tf.zeros_like(v) for v in variables]
    decays = optimization.add_weight_decay(zeros, variables, weight_decay=0.2, optimizer=optimizer)
    # Normalisation has none in any case.
    for found, variable, share in zip(decays, variables, (0.2, 0.0, 0.6, 0.0)):
        np.testing.assert_allclose(found, share * variable.numpy(), rtol=1e-6)
    plain = build_optimizer(build_config("sgd", ()))
    decays = optimization.add_weight_decay(zeros, variables, weight_decay=0.2, optimizer=plain)
    for found, variable, share in zip(decays, variables, (0.2, 0.0, 0.2, 0.2)):
        np.testing.assert_allclose(found, share * variable.numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    "row, parts",
    [
        (
            {"pattern": "^bakbone/"},
            ["by_variable[1].pattern '^bakbone/'", "none of the 4", NAMES[0]],
        ),
        ({"pattern": ""}, ["by_variable[1].pattern", "regular expression, got ''"]),
        ({"pattern": "(gamma"}, ["by_variable[1].pattern", "'(gamma'"]),
        ({"pattern": "head", "learning_rate": -0.1}, ["[1].learning_rate", "at least 0", "-0.1"]),
        ({"pattern": "head", "weight_decay": "no"}, ["by_variable[1].weight_decay", "'no'"]),
    ],
)
def test_what_is_refused(row, parts):
    rows = [VariableFactors(pattern="head", learning_rate=0.5), VariableFactors(**row)]
    with pytest.raises(ValueError) as error:
        build_optimizer(build_config("adamw", rows))
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize("name", ["lamb", "lars", "addons/RectifiedAdam"])
def test_decay_that_is_mixed_with_the_gradient_is_refused(name):
    rows = [VariableFactors(pattern="gamma", weight_decay=0.0)]
    options = {"weight_decay_rate": 0.1}
    if name.startswith("addons/"):
        require_addons()
        options = {"options": {"weight_decay": 0.1}}
    with pytest.raises(ValueError, match=f"but {name} mixes decay and gradient. Take adamw"):
        build_optimizer(build_config(name, rows, optimizer_options=options))
    build_optimizer(build_config(name, rows, optimizer_options={}))  # It does not decay.


@pytest.mark.parametrize("name", NOT_PROPORTIONAL)
def test_steps_that_are_not_proportional_to_the_learning_rate_are_refused(name):
    require_addons()
    rows = [VariableFactors(pattern="head", learning_rate=0.1)]
    with pytest.raises(ValueError, match=f"a step of {name} is not proportional"):
        build_optimizer(build_config(name, rows, optimizer_options={}))


def test_in_files_and_overrides():
    params = exp_factory.get_exp_config("panoptic_deeplab_shapes")
    config = params.trainer.optimizer_config
    assert config.by_variable == []
    text = (
        "trainer.optimizer_config.by_variable=[{pattern: ^backbone/, learning_rate: 0.1}, "
        "{pattern: '(gamma|beta)$', weight_decay: 0}],trainer.train_steps=5"
    )
    configuration.apply(params, configuration.read_text(text), source="--params_override")
    assert [type(row) for row in config.by_variable] == [VariableFactors] * 2
    first, second = (row.as_dict() for row in config.by_variable)
    assert first == {"pattern": "^backbone/", "learning_rate": 0.1, "weight_decay": 1.0}
    assert second == {"pattern": "(gamma|beta)$", "learning_rate": 1.0, "weight_decay": 0}
    # What params.yaml holds is read again.
    read = exp_factory.get_exp_config("panoptic_deeplab_shapes")
    read.override(params.as_dict())
    assert read.as_dict() == params.as_dict()
    # A list replaces the one before, though it is as long.
    rows = [{"pattern": "a"}, {"pattern": "b"}]
    params.override({"trainer": {"optimizer_config": {"by_variable": rows}}})
    assert [row.learning_rate for row in config.by_variable] == [1.0, 1.0]
    assert config.by_variable[1].weight_decay == 1.0
    values = {"trainer": {"optimizer_config": {"by_variable": [{"pattern": "a", "lr": 0.1}]}}}
    with pytest.raises(ValueError, match="own.yaml: .*'lr'"):
        configuration.apply(params, values, source="own.yaml")


def test_experiments_set_them_by_their_helper():
    trainer = optimization.averaged_adamw_config(
        train_steps=10,
        learning_rate=0.1,
        warmup_steps=1,
        steps_per_loop=1,
        validation_interval=5,
        by_variable=ROWS_OF_FACTORS,
    )
    config = trainer.optimizer_config
    assert [row.as_dict() for row in config.by_variable] == [r.as_dict() for r in ROWS_OF_FACTORS]
    options = config.optimizer.get()
    assert (options.gradient_clip_norm, options.global_clipnorm) == (0.0, 5.0)
