"""NCCL's communicator with gloo in its place, so that all but NCCL itself is tested without a GPU."""

import torch

from atoll.communication.nccl import NcclCommunicator, _c10d


class GlooCommunicator(NcclCommunicator):
    def _open_group(self, store):
        return _c10d.ProcessGroupGloo(store, self.rank, self.size)

    @staticmethod
    def _goes_by_group(buffer):
        return buffer.dtype not in (torch.bool, torch.bfloat16) and buffer.numel() > 0
