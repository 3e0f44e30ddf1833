# SPDX-License-Identifier: Apache-2.0
"""The PyTorch package on GPUs: two ranks, each with a GPU of its own where there are two. Label gpu; skipped without."""
import subprocess
import sys
import unittest

import torch

import cardea
import ranks

SHAPE = [cardea.Segment("w13", (96, 64), torch.bfloat16), cardea.Segment("w2", (64, 48), torch.float32)]


def devices() -> int:
    """Asked in another process: CUDA does not survive the forks below."""
    code = "import torch; print(torch.cuda.device_count())"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


COUNT = devices()


def weights(expert, version=1):
    generator = torch.Generator().manual_seed(1000 * version + expert)
    return {s.name: torch.randn(s.shape, generator=generator).to(s.dtype) for s in SHAPE}


def stacked(experts, version=1):
    return {s.name: torch.stack([weights(e, version)[s.name] for e in experts]).cuda() for s in SHAPE}


@unittest.skipIf(COUNT == 0, "no GPU here")
class Gpu(unittest.TestCase):
    def together(self, body):
        def rank_body(rank, store):
            torch.cuda.set_device(rank % COUNT)
            with ranks.context(rank, 2, store) as job:
                body(rank, store, job)
                ranks.barrier(store, "end", 2)

        ranks.run(2, rank_body)

    def test_experts_land_in_torchs_tensors_in_stream_order(self):
        """More experts than slots, no wait of the host: kernels on the stream find each expert's bytes."""

        def body(rank, store, job):
            slots = {s.name: torch.full((2, *s.shape), float("nan"), dtype=s.dtype, device="cuda") for s in SHAPE}
            layer = job.group().layer(0, stacked(range(8 * rank, 8 * rank + 8)), slab=job.slab_over(slots))
            for stream in (torch.cuda.current_stream(), torch.cuda.Stream()):
                version = 1 if stream == torch.cuda.current_stream() else 2
                torch.cuda.synchronize()
                layer.publish(version)
                with torch.cuda.stream(stream):
                    kept = {}
                    for view in layer.fetch(version, range(16)):
                        torch.cuda._sleep(1_000_000)  # the copy must wait for the reader
                        kept[view.expert] = {s.name: view[s.name].clone() for s in SHAPE}
                        self.assertEqual(view.path, cardea.Path.HOME if view.expert // 8 == rank else cardea.Path.NODE_GPU)
                        self.assertEqual(view.slot is None, view.expert // 8 == rank)
                    layer.finish(version)
                layer.collect(version, timeout=120)
                torch.cuda.synchronize()
                for expert, tensors in kept.items():
                    for name, wanted in weights(expert).items():
                        self.assertTrue(torch.equal(tensors[name].cpu(), wanted), f"expert {expert}, {name}")
            self.assertGreaterEqual(job.counters()["experts_node_gpu"], 16)

        self.together(body)

    def test_slabs_and_weights_in_cardeas_device_memory(self):
        def body(rank, store, job):
            home = {s.name: job.empty((2, *s.shape), s.dtype, "cuda") for s in SHAPE}
            for name, tensor in stacked([2 * rank, 2 * rank + 1]).items():
                home[name].copy_(tensor)
            torch.cuda.synchronize()
            slab = job.slab(SHAPE, 2, "cuda")
            layer = job.group().layer(0, home, slab=slab)
            layer.publish(1, stream=None)
            other = 1 - rank
            fetch = layer.fetch(1, [2 * other, 2 * other + 1], stream=None)  # the host waits
            views = [fetch.next(), fetch.next()]
            for view in views:
                for name, wanted in weights(view.expert).items():
                    self.assertTrue(torch.equal(slab.tensors[name][view.slot].cpu(), wanted))
                    self.assertEqual(view[name].device, torch.device("cuda", rank % COUNT))
            tensor = views[0]["w2"]
            cardea.release(views)
            with self.assertRaises(cardea.ReleasedError):
                tensor.sum()
            layer.finish(1, stream=None)
            layer.collect(1, timeout=120, stream=None)

        self.together(body)

    def test_updates_are_seen_in_stream_order(self):
        """publish, finish and collect take the stream: weights written by a kernel just before are what others read."""

        def body(rank, store, job):
            mine = stacked([rank])
            layer = job.group().layer(0, mine, slab=job.slab(SHAPE, 1, "cuda"))
            for version in range(1, 6):
                torch.cuda._sleep(2_000_000)
                for name, tensor in stacked([rank], version).items():
                    mine[name].copy_(tensor)
                layer.publish(version)
                for view in layer.fetch(version, [1 - rank]):
                    got = {name: tensor.clone() for name, tensor in view.tensors.items()}
                layer.finish(version)
                layer.collect(version, timeout=120)
                for name, wanted in weights(1 - rank, version).items():
                    self.assertTrue(torch.equal(got[name].cpu(), wanted), f"version {version}, {name}")

        self.together(body)

    def test_the_table_on_the_device_follows_the_stream(self):
        """One slot for four experts: kernels between next and release find the view's slot, and the bytes at its address."""

        def body(rank, store, job):
            mine = stacked(range(4 * rank, 4 * rank + 4))
            slab = job.slab(SHAPE, 1, "cuda")
            layer = job.group().layer(0, mine, slab=slab)
            table = layer.device_table()
            self.assertEqual(table.slots.data_ptr(), layer.device_table().slots.data_ptr())
            torch.cuda.synchronize()
            layer.publish(3)
            kept = []
            other = 4 - 4 * rank
            for view in layer.fetch(3, range(other, other + 4)):
                torch.cuda._sleep(1_000_000)
                kept.append((view.expert, table.slots.clone(), table.versions.clone(), table.addresses.clone()))
            after = table.slots.clone()
            torch.cuda.synchronize()
            self.assertEqual(len(kept), 4)
            for expert, slots, versions, addresses in kept:
                self.assertEqual([int(s) for s in slots], [0 if e == expert else -1 for e in range(8)])
                self.assertEqual([int(v) for v in versions], [3 if e == expert or e // 4 == rank else -1 for e in range(8)])
                self.assertEqual(int(addresses[expert, 0]), slab.tensors["w13"].data_ptr())
                self.assertEqual(int(addresses[4 * rank, 1]), mine["w2"].data_ptr())
            self.assertTrue(bool((after == -1).all()))
            layer.finish(3)
            layer.collect(3, timeout=120)
            layer.close()
            torch.cuda.synchronize()
            job.wait_unmapped(mine["w13"], timeout=120)

        self.together(body)

    def test_a_stream_of_a_capture_is_refused(self):
        def body(rank, store, job):
            layer = job.group().layer(0, stacked([rank]), slab=job.slab(SHAPE, 1, "cuda"))
            layer.publish(1)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                with self.assertRaises(cardea.UnsupportedError):
                    layer.fetch(1, [1 - rank])
            layer.finish(1, stream=None)
            layer.collect(1, timeout=120, stream=None)

        self.together(body)


if __name__ == "__main__":
    if COUNT == 0:
        print("skipped: no GPU here")
        sys.exit(77)
    unittest.main(verbosity=1)
