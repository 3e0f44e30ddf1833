# SPDX-License-Identifier: Apache-2.0
"""The PyTorch package on memory of the CPU: what it promises, by ranks that are processes of this machine."""
import gc
import os
import select
import signal
import subprocess
import sys
import threading
import time
import unittest
import weakref

import torch
import torch.distributed as dist

import cardea
import ranks

SHAPE = [cardea.Segment("w13", (6, 4), torch.float32), cardea.Segment("w2", (4, 3), torch.bfloat16)]


def weights(expert: int, version: int = 1):
    """What an expert holds: different for every expert, version and place."""
    generator = torch.Generator().manual_seed(1000 * version + expert)
    return {s.name: torch.randn(s.shape, generator=generator).to(s.dtype) for s in SHAPE}


def stacked(experts, version: int = 1):
    return {s.name: torch.stack([weights(e, version)[s.name] for e in experts]) for s in SHAPE}


class Case(unittest.TestCase):
    def same(self, view, version: int = 1):
        for name, wanted in weights(view.expert, version).items():
            self.assertTrue(torch.equal(view[name], wanted), f"expert {view.expert}, segment {name}")


class Alone(Case):
    """A job of one rank."""

    def alone(self, body):
        ranks.run(1, lambda rank, store: body(ranks.context(0, 1, store)))

    def test_a_closed_view_refuses_every_use_of_its_tensors(self):
        def body(job):
            mine = stacked(range(4))
            layer = job.group().layer(0, mine)
            layer.publish(1)
            view = layer.fetch(1, [2]).next()
            tensor = view["w13"]
            row, product = tensor[1], tensor @ torch.ones(4)
            self.same(view)
            self.assertIsInstance(row, cardea.ExpertTensor)
            self.assertIs(type(product), torch.Tensor)
            self.assertEqual(tensor.data_ptr(), mine["w13"][2].data_ptr())  # at home nothing moves
            view.release()
            for use in (lambda: tensor.sum(), lambda: torch.matmul(tensor, torch.ones(4)), lambda: row + 1, lambda: tensor.numpy(),
                        lambda: tensor[0], lambda: torch.stack([tensor, tensor]), lambda: tensor.data_ptr(), lambda: view["w2"],
                        lambda: tensor.tolist(), lambda: tensor.to(torch.float64), lambda: torch.add(product, row[0])):
                with self.assertRaisesRegex(cardea.ReleasedError, "expert 2 of layer 0"):
                    use()
            self.assertEqual(repr(tensor), "ExpertTensor(released)")
            self.assertEqual(tuple(tensor.shape), (6, 4))
            self.assertEqual(product.shape, (6,))  # what was computed is the caller's
            view.release()  # twice is nothing
            job.close()

        self.alone(body)

    def test_experts_are_read_only(self):
        def body(job):
            mine = stacked(range(2))
            layer = job.group().layer(0, mine)
            layer.publish(1)
            with layer.fetch(1, [1]).next() as view:
                tensor = view["w13"]

                def assign():
                    tensor[0] = 0.0

                def add():
                    nonlocal tensor
                    tensor += 1

                for write in (assign, add, lambda: tensor.zero_(), lambda: tensor[0].mul_(2), lambda: torch.neg(mine["w13"][0], out=tensor),
                              lambda: tensor.copy_(mine["w13"][0]), lambda: torch.relu_(tensor)):
                    with self.assertRaisesRegex(RuntimeError, "read only"):
                        write()
                self.same(view)
                torch.neg(tensor, out=mine["w13"][0].new_empty(6, 4))  # reading it is fine
            job.close()

        self.alone(body)

    def test_versions(self):
        def body(job):
            mine = stacked(range(3))
            with job.group().layer(7, mine) as layer:
                self.assertIsNone(layer.expert(0).published)
                layer.publish(1)
                self.assertEqual(layer.expert(2), cardea.ExpertInfo(0, 0, cardea.Path.HOME, 1))
                entry = layer.table()[2]
                self.assertEqual((entry.version, entry.slot, entry.addresses[0]), (1, None, mine["w13"][2].data_ptr()))
                with self.assertRaises(cardea.BusyError):
                    layer.publish(2)
                view = layer.fetch(1, [0]).next()
                with self.assertRaises(cardea.BusyError) as caught:
                    layer.finish(1)
                self.assertEqual(caught.exception.status, cardea.Status.ERR_BUSY)
                self.assertEqual(caught.exception.call, "cardea_finish")
                with self.assertRaises(cardea.BusyError):
                    layer.close()
                view.release()
                layer.finish(1)
                self.assertTrue(layer.try_collect(1, timeout=60))
                with self.assertRaises(cardea.StaleError):
                    layer.fetch(1, [0])
                for name, tensor in stacked(range(3), version=2).items():
                    mine[name].copy_(tensor)
                layer.publish(2)
                for expert in layer.fetch(2, torch.tensor([2, 0])):
                    self.same(expert, version=2)
                layer.finish(2)
                layer.collect(2)
            job.close()

        self.alone(body)

    def test_misuse_is_an_exception_with_a_reason(self):
        def body(job):
            group = job.group()
            good = stacked(range(2))
            wrong = [
                (ValueError, "contiguous", lambda: group.layer(0, {"w": torch.zeros(2, 4, 6).transpose(1, 2)})),
                (ValueError, "differ in shape", lambda: group.layer(0, {"w": [torch.zeros(3), torch.zeros(4)]})),
                (ValueError, "as many rows", lambda: group.layer(0, {"a": torch.zeros(2, 3), "b": torch.zeros(3, 3)})),
                (ValueError, "no bytes", lambda: group.layer(0, {"w": torch.zeros(2, 0)})),
                (ValueError, "must give segments", lambda: group.layer(0)),
                (ValueError, "must give num_experts", lambda: group.layer(0, segments=SHAPE)),
                (ValueError, "not \\[", lambda: group.layer(0, good, segments=SHAPE[:1])),
                (ValueError, "experts were given", lambda: group.layer(0, good, local_experts=[0])),
                (cardea.InvalidArgumentError, "", lambda: group.layer(0, good, local_experts=[0, 0])),
                (cardea.InvalidArgumentError, "", lambda: job.group([5])),
                (ValueError, "members", lambda: job.group([])),
                (ValueError, "do not lie", lambda: job.slab_over(good, first_slot=2)),
                (ValueError, "unknown|TypeError", lambda: job.register(torch.zeros(4, 4).t())),
                (TypeError, "unknown options", lambda: cardea.Context(node="x")),
                (ValueError, "128 bytes", lambda: cardea.Context.from_unique_id(b"x", 0, 1)),
            ]
            for kind, text, use in wrong:
                with self.subTest(text=text), self.assertRaises(kind) as caught:
                    use()
                if kind is ValueError and text != "unknown|TypeError":
                    self.assertRegex(str(caught.exception), text)
            layer = group.layer(0, good)
            with self.assertRaises(cardea.BusyError):
                group.close()
            layer.publish(1)
            for experts in ([9], [0, 0], []):
                with self.assertRaises(cardea.InvalidArgumentError):
                    layer.fetch(1, experts)
            with self.assertRaisesRegex(ValueError, "not among"):
                layer.fetch(1, [0], segments=["w3"])
            with self.assertRaisesRegex(ValueError, "host memory"):
                layer.fetch(1, [0], stream="other")
            fetch = layer.fetch(1, [0], segments=["w2"])
            with fetch.next() as view:
                self.assertEqual(list(view.tensors), ["w2"])
                with self.assertRaisesRegex(KeyError, "not asked for"):
                    view["w13"]
                with self.assertRaisesRegex(KeyError, "no segment"):
                    view["w3"]
            self.assertIsNone(fetch.next())
            fetch.close()
            with self.assertRaises(cardea.InvalidHandleError):
                fetch.next()
            job.close()
            job.close()
            for use in (lambda: job.group(), lambda: job.counters(), lambda: job.fileno(), lambda: layer.publish(2), lambda: job.abort()):
                with self.assertRaises(cardea.InvalidHandleError):
                    use()

        self.alone(body)

    def test_memory_lives_as_long_as_a_tensor_shows_it(self):
        """Closing the context with a tensor over its memory in hand must not unmap it; dropping the tensor does."""

        def body(job):
            tensor = job.empty((1 << 20,), torch.uint8)
            part = tensor[5:7]
            address = f"{tensor.data_ptr():x}-"
            mapped = lambda: any(line.startswith(address) for line in open("/proc/self/maps"))  # noqa: E731
            self.assertTrue(mapped())
            tensor.fill_(3)
            root = job._root
            job.close()
            self.assertEqual(int(tensor.sum()), 3 << 20)  # a crash if it were gone
            del tensor
            self.assertTrue(mapped())
            self.assertEqual(part.tolist(), [3, 3])
            del part
            self.assertFalse(mapped())
            self.assertFalse(root.handle)  # and the context went with it

        self.alone(body)

    def test_views_end_with_their_context(self):
        def body(job):
            layer = job.group().layer(0, stacked(range(2)))
            layer.publish(1)
            view = layer.fetch(1, [0]).next()
            tensor = view["w13"]
            job.close()
            self.assertFalse(view.ok)
            with self.assertRaises(cardea.ReleasedError):
                tensor.sum()

        self.alone(body)

    def test_nothing_leaks(self):
        """What is dropped is freed, without a cycle collector: a thousand fetches, slabs and memories leave nothing behind."""

        def body(job):
            gc.disable()
            layer = job.group().layer(0, stacked(range(2)))
            layer.publish(1)

            def once():
                view = layer.fetch(1, [1]).next()
                tensor = view["w2"]
                tensor.sum()
                slab = job.slab(SHAPE, 2)
                slab.tensors["w2"].fill_(1)
                job.empty((64,), torch.float32)
                return weakref.ref(view), weakref.ref(tensor), weakref.ref(slab)

            for _ in range(20):
                once()
            before = len(open("/proc/self/maps").readlines()), len(os.listdir("/proc/self/fd"))
            for _ in range(1000):
                self.assertEqual([ref() for ref in once()], [None] * 3)
            after = len(open("/proc/self/maps").readlines()), len(os.listdir("/proc/self/fd"))
            self.assertLess(after[0] - before[0], 50)
            self.assertLess(after[1] - before[1], 10)
            self.assertEqual(len(job._root.leases), 0)
            self.assertLessEqual(len(job._root.children), 2)  # group and layer
            layer.finish(1)  # BUSY if a view had been left open
            job.close()

        self.alone(body)

    def test_a_forked_child_is_told_so_and_harms_nothing(self):
        def body(job):
            layer = job.group().layer(0, stacked(range(2)))
            layer.publish(1)
            view = layer.fetch(1, [0]).next()
            child = os.fork()
            if child == 0:
                try:
                    layer.fetch(1, [1])
                except cardea.ForkedError:
                    del view, layer
                    job.close()
                    os._exit(7)
                os._exit(8)
            self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 7)
            self.same(view)
            view.release()
            layer.finish(1)
            job.close()

        self.alone(body)

    def test_version_says_what_the_library_is(self):
        found = cardea.version()
        self.assertEqual(found.abi, 0)
        self.assertRegex(found.ucx, r"^\d+\.\d+")
        self.assertRegex(found.hwloc, r"^\d+\.\d+")

    def test_a_library_that_is_not_there_is_named(self):
        code = "import cardea\ntry:\n  cardea.version()\nexcept OSError as error:\n  print(error)"
        run = subprocess.run([sys.executable, "-c", code], env={**os.environ, "CARDEA_LIBRARY": "/nowhere/libcardea.so"},
                             capture_output=True, text=True, check=True)
        self.assertIn("/nowhere/libcardea.so", run.stdout)
        self.assertIn("CARDEA_LIBRARY", run.stdout)


class Together(Case):
    """Four ranks on two nodes: two mapped or copied, two over TCP."""

    WORLD = 4

    def together(self, body, nodes=2, expected=None):
        ranks.run(self.WORLD, lambda rank, store: body(rank, store, lambda **o: ranks.context(rank, self.WORLD, store, nodes, **o)), expected)

    def test_every_rank_reads_every_expert(self):
        def body(rank, store, join):
            with join(cache_bytes=0) as job:
                self.assertEqual((job.rank, job.world_size, job.node, job.node_count, job.node_rank, job.node_size),
                                 (rank, 4, rank // 2, 2, rank % 2, 2))
                slab = job.slab(SHAPE, 3)
                layer = job.group().layer(0, stacked([2 * rank, 2 * rank + 1]), slab=slab)
                self.assertEqual((layer.num_experts, layer.expert_bytes), (8, 6 * 4 * 4 + 4 * 3 * 2))
                layer.publish(1)
                seen, paths = [], set()
                for expert in layer.fetch(1, range(8)):
                    self.same(expert)
                    seen.append(expert.expert)
                    paths.add(expert.path)
                    self.assertEqual(expert.slot is not None, expert.path in (cardea.Path.NETWORK, cardea.Path.NODE_COPY), expert)
                    if expert.slot is not None:
                        self.assertTrue(torch.equal(slab.tensors["w2"][expert.slot], expert["w2"]))
                    self.assertEqual(expert.source, expert.expert // 2)
                self.assertEqual(sorted(seen), list(range(8)))
                self.assertIn(cardea.Path.HOME, paths)
                self.assertIn(cardea.Path.NETWORK, paths)
                layer.finish(1)
                layer.collect(1, timeout=120)
                counters = job.counters()
                self.assertEqual(counters["experts_home"], 2)
                network = [row for row in job.traffic() if row.path == cardea.Path.NETWORK]
                self.assertTrue(network and all(row.urgency == cardea.Class.DEMAND and row.chunks_done for row in network))
                self.assertGreaterEqual(sum(row.bytes for row in network), counters["bytes_network_received"])
                self.assertIn("# TYPE cardea_", job.metrics())
                self.assertIn("the test asks", job.dump("the test asks"))
                self.assertEqual(counters["experts_failed"], 0)
                ranks.barrier(store, "done", 4)

        self.together(body)

    def test_experts_in_cardeas_memory_are_mapped_by_the_node(self):
        def body(rank, store, join):
            with join() as job:
                mine = {s.name: job.empty((2, *s.shape), s.dtype) for s in SHAPE}
                for name, tensor in stacked([2 * rank, 2 * rank + 1]).items():
                    mine[name].copy_(tensor)
                slab = job.slab(SHAPE, 4)
                layer = job.group().layer(0, mine, slab=slab)
                layer.publish(1)
                neighbour = rank ^ 1
                for view in layer.fetch(1, [2 * neighbour, 2 * neighbour + 1]):
                    self.assertEqual(view.path, cardea.Path.NODE_MAPPED)
                    self.assertIsNone(view.slot)
                    self.same(view)
                for view in layer.fetch(1, [2 * neighbour], slots=True):  # for a grouped GEMM it is copied
                    self.assertEqual(view.path, cardea.Path.NODE_COPY)
                    self.assertTrue(torch.equal(slab.tensors["w13"][view.slot], weights(view.expert)["w13"]))
                layer.finish(1)
                layer.collect(1, timeout=120)
                ranks.barrier(store, "done", 4)

        self.together(body)

    def test_one_array_of_home_and_fetched_experts(self):
        """[E_local + slots, …] in torch's own tensors: the rows at home first, then what was fetched, as one gang."""

        def body(rank, store, join):
            with join() as job:
                arrays = {s.name: torch.full((2 + 6, *s.shape), float("nan"), dtype=s.dtype) for s in SHAPE}
                for name, tensor in stacked([2 * rank, 2 * rank + 1]).items():
                    arrays[name][:2] = tensor
                slab = job.slab_over(arrays, first_slot=2)
                self.assertEqual((slab.num_slots, slab.first_slot, slab.free_slots), (6, 2, 6))
                home = {name: array[:2] for name, array in arrays.items()}
                layer = job.group().layer(0, home, slab=slab)
                layer.publish(1)
                away = [e for e in range(8) if e // 2 != rank]
                fetch = layer.fetch(1, away, slots=True, gang=True)
                fetch.wait(timeout=120)
                self.assertEqual(fetch.info()["ready"], 6)
                views = []
                while True:
                    more = fetch.ready(max=4)
                    if not more:
                        break
                    views += more
                self.assertEqual(slab.free_slots, 0)
                for view in views:
                    self.assertTrue(2 <= view.slot < 8)
                    for name, wanted in weights(view.expert).items():
                        self.assertTrue(torch.equal(arrays[name][view.slot], wanted), view)
                with self.assertRaises(cardea.LimitError):
                    layer.fetch(1, away, slots=True, gang=True, slab=job.slab(SHAPE, 2))
                cardea.release(views)
                self.assertEqual(slab.free_slots, 6)
                layer.finish(1)
                layer.collect(1, timeout=120)
                ranks.barrier(store, "done", 4)

        self.together(body)

    def test_own_views_in_the_way_are_told(self):
        def body(rank, store, join):
            with join(cache_bytes=0) as job:
                layer = job.group().layer(0, stacked([2 * rank, 2 * rank + 1]), slab=job.slab(SHAPE, 2))
                layer.publish(1)
                if rank == 0:
                    with layer.fetch(1, [4, 5, 6]) as fetch:
                        first = next(fetch).keep()
                        second = next(fetch).keep()
                        with self.assertRaises(cardea.WouldDeadlockError):
                            fetch.next()
                        first.release()
                        third = fetch.next()
                        self.same(second)
                        self.same(third)
                        second.release()
                        third.release()
                ranks.barrier(store, "read", 4)
                layer.finish(1)
                layer.collect(1, timeout=120)
                ranks.barrier(store, "done", 4)

        self.together(body)

    def test_parameters_of_single_experts(self):
        """An nn.Parameter for each expert and projection, in any order; some ranks have none."""

        def body(rank, store, join):
            with join() as job:
                group = job.group([3, 1, 0])
                if rank == 2:
                    self.fail("not a member")  # pragma: no cover
                local = {3: [4, 0], 1: [1, 3, 2], 0: []}[rank]
                parameters = {s.name: [torch.nn.Parameter(weights(e)[s.name]) for e in local] for s in SHAPE}
                slab = job.slab(SHAPE, 5)
                layer = group.layer(3, parameters if local else None, segments=SHAPE, num_experts=5, local_experts=local, slab=slab)
                del parameters  # the layer keeps them
                gc.collect()
                layer.publish(9)
                with layer.fetch(9, range(5)) as fetch:
                    for view in fetch:
                        self.same(view)
                self.assertEqual([layer.expert(e).home for e in range(5)], [3, 1, 1, 1, 3])
                layer.finish(9)
                layer.collect(9, timeout=120) if local else None
                ranks.barrier(store, "done", 4)

        def rank_two_watches(rank, store, join):
            if rank != 2:
                return body(rank, store, join)
            with join():
                ranks.barrier(store, "done", 4)

        self.together(rank_two_watches)

    def test_prefetch(self):
        def body(rank, store, join):
            with join() as job:
                layer = job.group().layer(0, stacked([2 * rank, 2 * rank + 1]), slab=job.slab(SHAPE, 8))
                layer.publish(1)
                away = (2 * rank + 4) % 8
                with layer.prefetch(1, [away, away + 1]) as ahead:
                    ahead.wait(timeout=120)
                    with self.assertRaises(cardea.UnsupportedError):
                        ahead.next()
                received = job.counters()["bytes_network_received"]
                for view in layer.fetch(1, [away, away + 1]):
                    self.same(view)
                self.assertEqual(job.counters()["bytes_network_received"], received)  # it was here
                layer.finish(1)
                layer.collect(1, timeout=120)
                ranks.barrier(store, "done", 4)

        self.together(body)

    def test_an_unpublished_version_parks_and_a_deadline_ends_it(self):
        def body(rank, store, join):
            with join() as job:
                layer = job.group().layer(0, stacked([2 * rank, 2 * rank + 1]), slab=job.slab(SHAPE, 8))
                away = (2 * rank + 4) % 8
                fetch = layer.fetch(5, [away])
                self.assertEqual(fetch.info()["parked"], 1)
                with self.assertRaises(TimeoutError):
                    fetch.next(timeout=0)
                with self.assertRaises(cardea.TimedOutError):
                    fetch.wait(timeout=0.01)
                late = layer.fetch(5, [away + 1], deadline=0.05)
                view = late.ready(timeout=120)[0]
                self.assertFalse(view.ok)
                self.assertEqual(view.error.status, cardea.Status.ERR_TIMEOUT)
                self.assertEqual(view.error.expert, away + 1)
                with self.assertRaises(cardea.TimedOutError):
                    view.check()
                gone = layer.fetch(5, [away + 1])
                gone.cancel()
                with self.assertRaises(cardea.CanceledError):
                    next(gone)
                self.assertIsNone(gone.next())  # and iterating goes on after a failure
                ranks.barrier(store, "parked", 4)
                layer.publish(5)
                with fetch:
                    for view in fetch:
                        self.same(view)
                layer.finish(5)
                layer.collect(5, timeout=120)
                ranks.barrier(store, "done", 4)

        self.together(body)

    def test_a_dead_source_is_named(self):
        """Rank 3 dies by SIGKILL; a fetch from it fails with its number, the others' experts still come."""

        def body(rank, store, join):
            job = join()
            layer = job.group().layer(0, stacked([2 * rank, 2 * rank + 1]), slab=job.slab(SHAPE, 8))
            layer.publish(1)
            ranks.barrier(store, "published", 4)
            if rank == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            while job.ranks()[3].alive:
                job.clear_events()
                if job.ranks()[3].alive:
                    select.select([job], [], [], 1.0)
            fetch = layer.fetch(1, [0, 7, 3] if rank < 2 else [4, 7])
            failures, came = [], []
            while True:
                try:
                    view = next(fetch)
                except StopIteration:
                    break
                except cardea.PeerLostError as error:
                    failures.append(error)
                else:
                    self.same(view)
                    came.append(view.expert)
            if rank < 2:
                self.assertEqual(sorted(came), [0, 3])
            self.assertEqual([(e.peer, e.expert, e.layer) for e in failures], [(3, 7, 0)])
            self.assertIn("rank 3", str(failures[0]))
            ranks.barrier(store, "survivors", 3)
            job.close()

        self.together(body, expected={3: -signal.SIGKILL})

    def test_abort_wakes_a_waiting_thread(self):
        def body(rank, store, join):
            job = join()
            layer = job.group().layer(0, stacked([2 * rank, 2 * rank + 1]), slab=job.slab(SHAPE, 8))
            fetch = layer.fetch(1, [(2 * rank + 4) % 8])  # nobody publishes
            outcome = []

            def wait():
                try:
                    fetch.next()
                except cardea.CardeaError as error:
                    outcome.append(error)

            thread = threading.Thread(target=wait)
            thread.start()
            job.abort()
            thread.join(timeout=120)
            self.assertEqual([type(e) for e in outcome], [cardea.CanceledError])
            ranks.barrier(store, "done", 4)
            job.close()

        self.together(body)

    def test_events_can_be_selected(self):
        def body(rank, store, join):
            with join() as job:
                layer = job.group().layer(0, stacked([2 * rank, 2 * rank + 1]), slab=job.slab(SHAPE, 8))
                fetch = layer.fetch(1, [(2 * rank + 4) % 8])
                ranks.barrier(store, "asked", 4)
                layer.publish(1)
                until = time.monotonic() + 120
                while True:
                    job.clear_events()
                    try:
                        view = fetch.next(timeout=0)
                        break
                    except cardea.TimedOutError:
                        self.assertLess(time.monotonic(), until)
                        select.select([job], [], [], 60)
                self.same(view)
                view.release()
                layer.finish(1)
                layer.collect(1, timeout=120)
                ranks.barrier(store, "done", 4)

        self.together(body)


class Joining(Case):
    """The ways into a job."""

    def use(self, job, rank, store, world=2):
        self.assertEqual((job.rank, job.world_size), (rank, world))
        layer = job.group().layer(0, stacked([rank]), slab=job.slab(SHAPE, world))
        layer.publish(1)
        for view in layer.fetch(1, range(world)):
            self.same(view)
        layer.finish(1)
        layer.collect(1, timeout=120)
        ranks.barrier(store, "done", world)
        job.close()

    def test_by_a_process_group(self):
        def body(rank, store):
            dist.init_process_group("gloo", store=dist.PrefixStore("gloo", store), rank=rank, world_size=3)
            everyone = cardea.Context.from_process_group()
            pair = dist.new_group([2, 0])
            if rank != 1:
                job = cardea.Context.from_process_group(pair)
                self.use(job, dist.get_rank(pair), store)  # while the other context is open
            dist.barrier()
            self.assertEqual(everyone.world_size, 3)
            everyone.close()
            dist.destroy_process_group()

        ranks.run(3, body)

    def test_by_a_unique_id(self):
        def body(rank, store):
            if rank == 0:
                store.set("job", cardea.unique_id("127.0.0.1"))
            self.use(cardea.Context.from_unique_id(store.get("job"), rank, 2), rank, store)

        ranks.run(2, body)

    def test_a_failing_exchange_is_the_cause(self):
        def body(rank, store):
            def broken(mine):
                raise ZeroDivisionError("the store burns")

            with self.assertRaises(cardea.TransportError) as caught:
                cardea.Context.from_exchange(broken, 0, 1)
            self.assertIsInstance(caught.exception.__cause__, ZeroDivisionError)
            with self.assertRaises(cardea.TransportError) as caught:
                cardea.Context.from_exchange(lambda mine: [mine[:-1]], 0, 1)
            self.assertIn("1 times", str(caught.exception.__cause__))

        ranks.run(1, body)

    def test_a_missing_rank_is_named(self):
        def body(rank, store):
            with self.assertRaisesRegex(cardea.TimedOutError, "1"):
                cardea.Context.from_unique_id(cardea.unique_id("127.0.0.1"), 0, 2, setup_timeout=0.2)

        ranks.run(1, body)

    def test_by_torchruns_environment(self):
        """Ranks that were started as torchrun starts them."""
        port = free_port()
        started = []
        for rank in range(2):
            environment = {**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
                           "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": f"test {os.getpid()}"}
            started.append(subprocess.Popen([sys.executable, os.path.abspath(__file__), "--as-rank"], env=environment,
                                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        printed = [process.communicate(timeout=ranks.LIMIT)[0] for process in started]
        self.assertEqual([process.returncode for process in started], [0, 0], printed)
        self.assertEqual(printed, ["rank0\n", "rank1\n"])

    @unittest.skipIf(torch.__version__.startswith("1."), "torchrun of torch 1.13 does not run under Python 3.11")
    def test_by_torchrun(self):
        """torchrun starts this file again, as the ranks below."""
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_addr=127.0.0.1",
                   f"--master_port={free_port()}", os.path.abspath(__file__), "--as-rank"]
        run = subprocess.run(command, capture_output=True, text=True, timeout=ranks.LIMIT)
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
        self.assertEqual(sorted(run.stdout.split()), ["rank0", "rank1"])


def free_port() -> int:
    """Such that the next one is free too: ranks of Cardea meet there."""
    import socket

    for _ in range(100):
        with socket.socket() as one, socket.socket() as next_one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            try:
                next_one.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port
    raise AssertionError("no two free ports in a row")


def as_rank() -> None:
    with cardea.Context() as job:
        layer = job.group().layer(0, stacked([job.rank]), slab=job.slab(SHAPE, 2))
        layer.publish(1)
        for view in layer.fetch(1, range(2)):
            for name, wanted in weights(view.expert).items():
                assert torch.equal(view[name], wanted), view
        layer.finish(1)
        layer.collect(1, timeout=120)
        os.write(1, f"rank{job.rank}\n".encode())  # in one piece: print writes the end of the line by itself, after another rank's


if __name__ == "__main__":
    if "--as-rank" in sys.argv:
        as_rank()
    else:
        unittest.main(verbosity=1)
