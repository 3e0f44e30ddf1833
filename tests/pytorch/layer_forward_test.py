# SPDX-License-Identifier: Apache-2.0
"""layer_forward.py and the layer in moe_layer: every way gives the plain layer's output, and the program reports what it did."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import torch
import torch.distributed as dist

import cardea
import ranks
from moe_layer import combine, experts, reference, routing, rows, shapes, ways

SOURCES = pathlib.Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")


class Pieces(unittest.TestCase):
    def alone(self, body):
        ranks.run(1, lambda rank, store: body())

    def test_every_token_has_distinct_experts_and_weights_that_sum_to_one(self):
        def body():
            shape = shapes.Shape("s", 8, 8, 16, 4)
            drawn = routing.draw(shape, 20000, routing.popularity("zipf:1.5", shape, 3), 5, CPU)
            self.assertEqual(tuple(drawn.experts.shape), (20000, 4))
            ordered = drawn.experts.sort(dim=1).values
            self.assertTrue((ordered[:, 1:] > ordered[:, :-1]).all())
            self.assertTrue(torch.allclose(drawn.weights.sum(1), torch.ones(20000)))
            again = routing.draw(shape, 20000, routing.popularity("zipf:1.5", shape, 3), 5, CPU)
            self.assertTrue(torch.equal(drawn.experts, again.experts))

        self.alone(body)

    def test_experts_are_chosen_as_often_as_they_are_popular(self):
        """With top-1 the frequencies are the chances."""

        def body():
            shape = shapes.Shape("s", 8, 8, 8, 1)
            for kind in ("uniform", "zipf:1.2"):
                chances = routing.popularity(kind, shape, 3)
                drawn = routing.draw(shape, 40000, chances, 7, CPU)
                found = torch.bincount(drawn.experts.reshape(-1), minlength=8).double() / 40000
                self.assertLess(float((found - chances).abs().max()), 0.015, kind)  # six standard deviations
            self.assertGreater(routing.imbalance(chances), 2.5)

        self.alone(body)

    def test_counts_files(self):
        shape = shapes.Shape("s", 8, 8, 4, 1)
        with tempfile.TemporaryDirectory() as directory:
            path = f"{directory}/counts.csv"
            pathlib.Path(path).write_text("domain,layer,e0,e1,e2,e3\nc4,0,10,20,30,40\nc4,7,40,40,0,20\n")
            self.assertEqual([round(p, 3) for p in routing.popularity(f"counts:{path}", shape, 0).tolist()], [0.25, 0.3, 0.15, 0.3])
            self.assertEqual([round(p, 2) for p in routing.popularity(f"counts:{path}:0", shape, 0).tolist()], [0.1, 0.2, 0.3, 0.4])
            for wrong in (f"counts:{path}:2", f"counts:{path}", "zipfs:1", "uniform:3"):
                with self.assertRaises(ValueError):
                    routing.popularity(wrong, shapes.Shape("s", 8, 8, 3 if wrong.endswith("csv") else 4, 1), 0)

    def test_recorded_counts(self):
        path = SOURCES.parent / "shared" / "traces" / "olmoe-1b-7b-64e-top8.csv"
        if not path.is_file():
            self.skipTest("no recorded routing beside the sources")
        chances = routing.popularity(f"counts:{path}:0", shapes.find("olmoe"), 0)
        self.assertGreater(routing.imbalance(chances), 1.5)

    def test_shapes(self):
        self.assertEqual(shapes.find("deepseek-v3").expert_bytes(2), 88080384)
        self.assertEqual(shapes.find("7:5:3:2"), shapes.Shape("7:5:3:2", 7, 5, 3, 2))
        for wrong in ("gpt", "7:5:3:4", "1:2:3", "0:1:1:1"):
            with self.assertRaises(ValueError):
                shapes.find(wrong)

    def test_rows(self):
        def body():
            chosen = torch.tensor([[3, 1], [1, 0], [3, 0]])
            sorted_rows = rows.Rows(chosen, 4, [1, 2, 3])
            self.assertEqual(sorted_rows.counts, [2, 0, 2])
            self.assertEqual(sorted_rows.pairs.tolist(), [1, 2, 0, 4, 3, 5])  # expert 0 is in no order: last
            self.assertEqual(sorted_rows.of([2, 3]).tolist(), [0, 4])
            self.assertEqual(sorted_rows.of([3, 1]).tolist(), [0, 4, 1, 2])
            self.assertEqual(sorted_rows.of([1, 2, 3]).data_ptr(), sorted_rows.pairs.data_ptr())  # together: no copy
            self.assertEqual(sorted_rows.of([2]).tolist(), [])

        self.alone(body)

    def test_combine(self):
        def body():
            combiner = combine.Combiner(2, 2, 3, torch.float32, CPU)
            combiner.add(torch.tensor([3, 0]), torch.tensor([[1.0, 2, 3], [10, 20, 30]]))
            self.assertEqual(combiner.sum(torch.tensor([[0.5, 7.0], [9.0, 2.0]])).tolist(), [[5, 10, 15], [2, 4, 6]])

        self.alone(body)

    def test_the_reference_is_the_formula(self):
        """Token by token, choice by choice, in float64."""

        def body():
            shape = shapes.Shape("s", 6, 5, 4, 2)
            stack = experts.draw_stack(shape, torch.float32, CPU, 1)
            drawn = routing.draw(shape, 9, routing.popularity("uniform", shape, 0), 1, CPU)
            x = torch.randn(9, 6)
            wanted = torch.zeros(9, 6, dtype=torch.float64)
            for t in range(9):
                for j in range(2):
                    e = int(drawn.experts[t, j])
                    w1, w3 = stack["w13"][e].double().chunk(2)
                    a, b = w1 @ x[t].double(), w3 @ x[t].double()
                    wanted[t] += float(drawn.weights[t, j]) * (stack["w2"][e].double() @ (a / (1 + torch.exp(-a)) * b))
            self.assertLess(reference.relative_error(reference.plain(x, drawn, stack), wanted), 1e-6)
            self.assertEqual(reference.relative_error(torch.full((2,), float("nan")), torch.ones(2)), float("inf"))

        self.alone(body)


class Ways(unittest.TestCase):
    """Each way on 1 to 4 ranks, also with experts that nobody chose, ranks without tokens for others, and slabs too small."""

    def compare(self, world, tokens, shape, kind="uniform", slots=3, group=2, nodes=1):
        def body(rank, store):
            dist.init_process_group("gloo", store=dist.PrefixStore("gloo", store), rank=rank, world_size=world)
            stack = experts.draw_stack(shape, torch.float32, CPU, 1)
            local = shape.experts // world
            home = {name: tensor[rank * local : (rank + 1) * local] for name, tensor in stack.items()}
            mine = tokens[rank]
            drawn = routing.draw(shape, mine, routing.popularity(kind, shape, 2), 10 + rank, CPU)
            x = torch.randn(mine, shape.hidden, generator=torch.Generator().manual_seed(rank))
            wanted = reference.plain(x, drawn, stack)
            with cardea.Context.from_process_group(node_id=str(rank * nodes // world)) as job:
                fetching = ways.Fetching(job, shape, home, slots, group, 0)
                every = [ways.Replicated(shape, stack), fetching, ways.AllToAll(shape, home, True), ways.AllToAll(shape, home, False)]
                for _ in range(2):
                    for way in every:
                        way.prepare()
                        error = reference.relative_error(way.forward(x, drawn), wanted)
                        way.settle()
                        self.assertLess(error, 1e-5, f"{way.name} on rank {rank}")
                chosen_away = {e for e in drawn.experts.reshape(-1).tolist() if e // local != rank}
                counters = job.counters()
                self.assertEqual(sum(counters[f"experts_{path}"] for path in ("node_copied", "network", "cache")), 2 * len(chosen_away))
                fetching.close()
                dist.barrier()
            dist.destroy_process_group()

        ranks.run(world, body)

    def test_two_ranks(self):
        self.compare(2, [64, 64], shapes.Shape("s", 32, 16, 8, 3))

    def test_four_ranks_on_two_nodes(self):
        self.compare(4, [40, 8, 33, 21], shapes.Shape("s", 32, 16, 8, 2), nodes=2)

    def test_skewed_routing_leaves_experts_unused(self):
        self.compare(2, [5, 3], shapes.Shape("s", 16, 8, 32, 2), kind="zipf:3", slots=1, group=1)

    def test_one_rank_fetches_nothing(self):
        self.compare(1, [20], shapes.Shape("s", 16, 8, 4, 2))

    def test_a_single_token(self):
        self.compare(2, [1, 1], shapes.Shape("s", 16, 8, 4, 1))


class Program(unittest.TestCase):
    def run_it(self, *arguments):
        command = [sys.executable, str(SOURCES / "examples" / "pytorch" / "layer_forward.py"), *arguments]
        environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
        return subprocess.run(command, capture_output=True, text=True, timeout=ranks.LIMIT, env={**environment, "CUDA_VISIBLE_DEVICES": ""})

    def test_it_prints_a_line_for_each_size_and_writes_json(self):
        with tempfile.TemporaryDirectory() as directory:
            run = self.run_it("--ranks", "2", "--shape", "64:32:8:2", "--tokens", "16,48", "--routing", "zipf:1", "--repeats", "2",
                              "--warmup", "1", "--json", f"{directory}/out.json")
            self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
            lines = [line for line in run.stdout.splitlines() if line.strip().startswith("64:32:8:2")]
            self.assertEqual([line.split()[1] for line in lines], ["16", "48"])
            written = json.loads(pathlib.Path(directory, "out.json").read_text())
            self.assertEqual(written["setting"]["ranks"], 2)
            for record, line in zip(written["results"], lines):
                self.assertEqual(set(record["seconds"]), {"pure", "cardea", "all-to-all", "per choice"})
                self.assertLess(max(record["error"].values()), 1e-5)
                shown = line.replace("|", " ").split()
                self.assertAlmostEqual(float(shown[2]), record["seconds"]["pure"] * 1e3, places=2)
                self.assertAlmostEqual(float(shown[8]), record["seconds"]["all-to-all"] / record["seconds"]["cardea"], delta=0.006)

    def test_wrong_options_are_named(self):
        for arguments, text in ((("--shape", "gpt-2"), "olmoe"), (("--tokens", "0"), "--tokens"), (("--ways", "pure,magic"), "--ways")):
            run = self.run_it(*arguments)
            self.assertEqual(run.returncode, 2)
            self.assertIn(text, run.stderr)

    def test_a_rank_that_fails_ends_the_job(self):
        run = self.run_it("--ranks", "3", "--shape", "64:32:8:2", "--tokens", "16")
        self.assertEqual(run.returncode, 1, run.stdout + run.stderr)
        self.assertIn("cannot be divided among 3 ranks", run.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=1)
