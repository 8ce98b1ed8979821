"""The tf.data service: processes beside the training, on any machines, that make its batches."""

from __future__ import annotations

import dataclasses
from typing import Optional

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class DataService:
    """A running service.

    Attributes:
      address: of its dispatcher, `grpc://host:port`.
      job_name: datasets of one name share the batches, each of which goes to one of them; None
        makes batches for one dataset alone.
    """

    address: str
    job_name: Optional[str] = None

    def distribute(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """The batches of a dataset, made by the workers of the service.

        Args:
          dataset: endless, and without a function in Python; every worker runs all of it.
        """
        return dataset.apply(
            tf.data.experimental.service.distribute(
                processing_mode=tf.data.experimental.service.ShardingPolicy.OFF,
                service=self.address,
                job_name=self.job_name,
            )
        )
