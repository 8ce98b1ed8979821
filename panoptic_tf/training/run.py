"""One run through `official.core.train_lib`: its actions, checkpoints and evaluations."""

from __future__ import annotations

import contextlib
import functools
import os
from typing import Any, Callable, Optional

import orbit
import tensorflow as tf
from official.core import base_trainer, train_lib, train_utils

from panoptic_tf.inputs.shards import find_shards
from panoptic_tf.systems import optimization
from panoptic_tf.training import actions, best, panels, progress, run_folder, workers
from panoptic_tf.training import trainer as trainer_lib


class Run(train_lib.OrbitExperimentRunner):
    """Adds our actions, which need the checkpoint manager and the step.

    All workers do the same, since reading a variable may take all of them; what those beside the
    first write goes to a folder of their own, which is thrown away.
    """

    def __init__(self, task, strategy, params, mode, model_dir, own_dir, terminal):
        self._task = task
        self._shared_dir = model_dir
        self._is_first = own_dir == model_dir
        writes_panels = "eval" in mode and self._is_first
        self._panels = panels.PanelWriter(task, model_dir) if writes_panels else None
        self._terminal: progress.Terminal = terminal
        self._progress: Optional[progress.Progress] = None
        self._save_on_signal: Optional[actions.SaveOnSignal] = None
        # TensorFlow's own handler of SIGTERM would take the place of ours.
        params = params.replace(trainer={"preemption_on_demand_checkpoint": False})
        super().__init__(strategy, task, mode, params, own_dir, save_summary=self._is_first)
        with strategy.scope():
            step = int(self.trainer.global_step.numpy())
            workers.check_same_step(step, model_dir)
            self._best = self._build_best()
            self._patience = self._build_patience(step)

    def _build_best(self) -> Optional[best.BestCheckpoint]:
        trainer = self.params.trainer
        if not trainer.best_checkpoint_export_subdir or self._mode != "train_and_eval":
            return None
        shared_dir = os.path.join(self._shared_dir, trainer.best_checkpoint_export_subdir)
        own_dir = os.path.join(self.model_dir, trainer.best_checkpoint_export_subdir)
        found = workers.gather(run_folder.read_or_empty(shared_dir, run_folder.METRICS_FILE))[0]
        if self._is_first:
            tf.io.gfile.makedirs(own_dir)
            run_folder.remove_leftovers(own_dir)
        manager = CheckpointManager(
            self.trainer.checkpoint, directory=own_dir, restore_from=own_dir, max_to_keep=1
        )
        return best.BestCheckpoint(
            manager,
            metric=trainer.best_checkpoint_eval_metric,
            metric_comp=trainer.best_checkpoint_metric_comp,
            best=found,
            writes=self._is_first,
            params_file=os.path.join(self.model_dir, run_folder.PARAMS_FILE),
        )

    def _build_patience(self, step: int) -> Optional[best.Patience]:
        config = self.params.trainer.early_stopping
        if not config.patience or self._mode != "train_and_eval":
            return None
        found = workers.gather(
            run_folder.read_or_empty(self._shared_dir, run_folder.EVALUATIONS_FILE)
        )[0]
        return best.Patience(config, found, step=step)

    def _build_trainer(self, task, train: bool, evaluate: bool) -> base_trainer.Trainer:
        is_tpu = isinstance(self.strategy, tf.distribute.TPUStrategy)
        data_wait = trainer_lib.DataWait() if train and not is_tpu else None
        with self.strategy.scope():
            trainer = train_utils.create_trainer(
                self.params,
                task,
                train=train,
                evaluate=evaluate,
                trainer_cls=functools.partial(trainer_lib.Trainer, data_wait=data_wait),
            )
            if train:
                variables = trainer.model.trainable_variables
                optimization.create_variables(trainer.optimizer, variables)
        return trainer

    def _maybe_build_checkpoint_manager(self) -> tf.train.CheckpointManager:
        return CheckpointManager(
            self.trainer.checkpoint,
            directory=self.model_dir,
            restore_from=self._shared_dir,
            max_to_keep=self.params.trainer.max_to_keep if self._is_first else 1,
            step_counter=self.trainer.global_step,
            checkpoint_interval=self.params.trainer.checkpoint_interval,
            init_fn=self.trainer.initialize,
        )

    def _build_controller(self, *args: Any, **kwargs: Any):
        trainer = kwargs["trainer"]
        step = self.trainer.global_step
        num_workers = workers.num_workers(self.strategy)
        kwargs["eval_actions"] = [self._write_panels] if self._panels is not None else []
        if self._is_first:
            self._progress = progress.Progress(
                terminal=self._terminal,
                global_step=step,
                train_steps=self.params.trainer.train_steps,
                batch_size=self.params.task.train_data.global_batch_size,
                num_workers=num_workers,
            )
            self._task.image_listeners.append(self._progress.count_image)
        if trainer is not None:
            kwargs["train_actions"] = [actions.FiniteLoss(step)]
            if any("GPU" in device for device in self.strategy.extended.worker_devices):
                kwargs["train_actions"].append(actions.StarvationWarning())
            if self._progress is not None:
                kwargs["train_actions"].append(self._progress)
            self._save_on_signal = actions.SaveOnSignal(
                self.checkpoint_manager, step, num_workers=num_workers
            )
            self._task.image_listeners.append(self._save_on_signal.stop_evaluation)
            kwargs["train_actions"].append(self._save_on_signal)
        kwargs["controller_cls"] = functools.partial(
            _Controller, begin=self._begin_evaluation, finish=self._finish_evaluation
        )
        return super()._build_controller(*args, **kwargs)

    def _write_panels(self, output: Any) -> None:
        del output
        self._panels(int(self.trainer.global_step.numpy()))

    def _begin_evaluation(self) -> None:
        if self._progress is not None:
            self._progress.start_evaluation(self._num_evaluated)

    @functools.cached_property
    def _num_evaluated(self) -> Optional[int]:
        """Images of an evaluation; None where counting them would be reading them."""
        data, steps = self.params.task.validation_data, self.params.trainer.validation_steps
        count = find_shards(data.input_path, allow_partial=True).num_records
        if count is None:
            return None
        count = min(count, data.max_examples or count)
        return count if steps == -1 else min(count, steps * data.global_batch_size)

    def _finish_evaluation(self) -> None:
        """Writes the metrics, which say that all else of the evaluation is written.

        Raises:
          best.NoBetter: the training is to stop.
        """
        self._task.check_evaluated()
        metrics = self._task.last_result
        if self._progress is not None:
            self._progress.end_evaluation(metrics)
        if self._best is not None:
            self._best.update(metrics)
        if self._patience is not None:
            self._patience.add(metrics)
            if self._is_first:
                path = os.path.join(self.model_dir, run_folder.EVALUATIONS_FILE)
                run_folder.write_json(path, self._patience.state())
        if self._panels is not None:
            path = os.path.join(self.model_dir, run_folder.METRICS_FILE)
            run_folder.write_json(path, metrics)
        if self._save_on_signal is not None:
            self._save_on_signal({})
        if self._patience is not None and self._patience.verdict():
            raise best.NoBetter

    def run(self):
        """See base class."""
        if self._patience is not None and self._patience.verdict():
            self._say(self._patience.verdict())  # By the run before.
            return self.trainer.model, {}
        if self._progress is not None and "train" in self._mode:
            self._progress.start()
        try:
            if self._mode == "train_and_eval":
                self._run_to_next_evaluation()
            result = super().run()
            if self._mode == "train_and_eval" and not self._task.last_result:
                # A run that was stopped between its last step and the end of its last evaluation.
                self._evaluate()
            return result
        except best.NoBetter:
            with self.strategy.scope():
                self.checkpoint_manager.save(
                    checkpoint_number=self.trainer.global_step.numpy(), check_interval=False
                )
            self._say(self._patience.verdict())
            return self.trainer.model, {}
        except actions.EvaluationStopped:
            with self.strategy.scope():
                if hasattr(self.trainer.optimizer, "swap_weights"):
                    self.trainer.optimizer.swap_weights()  # An evaluation runs on the averages.
                self._save_on_signal.save_and_exit()
        finally:
            if self._progress is not None:
                self._progress.close()

    def _say(self, text: str) -> None:
        if self._progress is not None:
            self._progress.say(text)

    def _run_to_next_evaluation(self) -> None:
        """Evaluates at multiples of the interval, from whatever step the run goes on.

        So an evaluation that did not come to its end is made up for.
        """
        trainer, step = self.params.trainer, int(self.trainer.global_step.numpy())
        interval = trainer.validation_interval or trainer.train_steps
        if not 0 < step < trainer.train_steps:
            return
        next_step = min(step - step % interval + interval, trainer.train_steps)
        with self.strategy.scope():
            evaluated = workers.gather(run_folder.evaluated_step(self._shared_dir))[0]
            if step % interval:
                self.controller.train(next_step, checkpoint_at_completion=False)
            elif evaluated == step:
                return
        self._evaluate()

    def _evaluate(self) -> None:
        with self.strategy.scope():
            self.controller.evaluate(steps=self.params.trainer.validation_steps)


class _Controller(orbit.Controller):
    """Tells when an evaluation begins and when it has ended, its summaries written."""

    def __init__(self, *, begin: Callable[[], None], finish: Callable[[], None], **kwargs: Any):
        self._begin = begin
        self._finish = finish
        super().__init__(**kwargs)

    def evaluate(self, steps: int = -1) -> Any:
        """See base class."""
        self._begin()
        output = super().evaluate(steps)
        self._finish()
        return output


class CheckpointManager(tf.train.CheckpointManager):
    """Saves to one folder, whole or not at all; goes on from the last checkpoint of another."""

    def __init__(self, checkpoint: tf.train.Checkpoint, *, restore_from: str, **kwargs: Any):
        super().__init__(checkpoint, **kwargs)
        self._restore_from = restore_from

    def save(self, *args: Any, **kwargs: Any) -> Optional[str]:
        """See base class."""
        try:
            return super().save(*args, **kwargs)
        except tf.errors.OpError:
            with contextlib.suppress(tf.errors.OpError):
                run_folder.remove_leftovers(self.directory)
            raise

    def restore_or_initialize(self) -> Optional[str]:
        """See base class."""
        if self.directory != self._restore_from:
            self._latest_checkpoint = tf.train.latest_checkpoint(self._restore_from)
        return super().restore_or_initialize()
