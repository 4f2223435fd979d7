"""Measure near-duplicate search: ours against datasketch, rensa and datatrove, from texts to candidate pairs.

    python tests/benchmarks/curation.py [--rows 10000 100000 1000000] [--repeats 5]

Corpora are generated with a seed: documents of 200 words on average and rows of 60 characters, a tenth of each near-duplicates
with varied edit rates. All engines get 128 permutations in 32 bands of 4; the peers' interfaces take tokens, so they are given
the character 5-grams of a text as Python strings. Each run has a process of its own and one thread; engines take turns. Reading
the texts, imports and the compilation of our loops are not timed. Prints Markdown tables: medians over the repeats.

Recall and precision are those of pairs among the first rows, against all pairs of them compared by Python sets.
"""

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import accumulate
from pathlib import Path

PERMUTATIONS, BANDS = 128, 32
JACCARD = 0.8
PLANTED = 0.1
EDIT_RATES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)  # of words
WORDS = {"documents": 200, "rows": 10}  # on average; ten words have about 60 characters
SAMPLE = {"documents": 1_000, "rows": 3_000}  # the first rows, of which all pairs are compared
PARENTS = 500  # a near-duplicate is of one of so many rows before it, so that the sample has its share

ENGINES = {
    "tunegate": "",
    "rensa": "pairs: from_token_sets, insert_many, query_all",
    "rensa flags": "a flag for each row that has any candidate, no pairs: digest_matrix_from_token_sets, one-shot flags",
    "rensa rho": "the same with the rho sketch, which is not 128 permutations of each 5-gram",
    "datasketch": "MinHash.generator, MinHashLSH.insert and query",
    "datatrove": "5-grams of words, as it has none of characters; signatures only, no pairs",
}
NO_PAIRS = ("rensa flags", "rensa rho", "datatrove")
LARGEST = {"datatrove": 10_000}


def corpus(kind: str, rows: int) -> list[str]:
    """Generate texts: words by Zipf's law, lengths log-normal, near-duplicates with words replaced."""
    rng = random.Random(f"{kind} 1")
    vocabulary = [
        "".join(rng.choices("etaoinshrdlucmfwypvbgkqjxz", accumulate(range(26, 0, -1)), k=rng.randint(2, 9))) for _ in range(30_000)
    ]
    weights = list(accumulate(1 / (n + 20) for n in range(len(vocabulary))))
    texts: list[str] = []
    while len(texts) < rows:
        if texts and rng.random() < PLANTED:
            words = rng.choice(texts[-PARENTS:]).split(" ")
            rate = rng.choice(EDIT_RATES)
            texts.append(" ".join(rng.choice(vocabulary) if rng.random() < rate else word for word in words))
        else:
            count = max(1, round(rng.lognormvariate(0, 0.5) * WORDS[kind] / 1.133))  # exp(0.5 ** 2 / 2) is 1.133
            texts.append(" ".join(rng.choices(vocabulary, cum_weights=weights, k=count)))
    return texts


def five_grams(text: str) -> list[str]:
    return [text[i : i + 5] for i in range(max(1, len(text) - 4))]


def exact_pairs(texts: list[str]) -> set[tuple[int, int]]:
    """Compare all pairs by Python sets, except those whose sizes alone rule them out."""
    sets = sorted(((set(five_grams(text)), i) for i, text in enumerate(texts)), key=lambda entry: (len(entry[0]), entry[1]))
    found = set()
    for a, (left, i) in enumerate(sets):
        for right, j in sets[a + 1 :]:
            if len(left) < JACCARD * len(right):
                break
            shared = len(left & right)
            if shared / (len(left) + len(right) - shared) >= JACCARD:
                found.add((min(i, j), max(i, j)))
    return found


def tunegate(texts: list[str]):
    from tunegate.curate.near_duplicates import candidate_pairs

    return candidate_pairs(texts, JACCARD)


def rensa(texts: list[str]):
    from rensa import RMinHash, RMinHashLSH

    hashes = RMinHash.from_token_sets((five_grams(text) for text in texts), PERMUTATIONS, 1)
    index = RMinHashLSH(JACCARD, PERMUTATIONS, BANDS)
    index.insert_many(hashes)
    return _unzip((i, j) for i, near in enumerate(index.query_all(hashes)) for j in near if i < j)


def rensa_flags(texts: list[str]):
    from rensa import RMinHash, RMinHashLSH

    matrix = RMinHash.digest_matrix_from_token_sets((five_grams(text) for text in texts), PERMUTATIONS, 1)
    RMinHashLSH(JACCARD, PERMUTATIONS, BANDS).query_duplicate_flags_matrix_one_shot(matrix)


def rensa_rho(texts: list[str]):
    from rensa import RMinHash, RMinHashLSH

    matrix = RMinHash.digest_matrix_from_token_sets_rho((five_grams(text) for text in texts), PERMUTATIONS, 1)
    RMinHashLSH(JACCARD, PERMUTATIONS, BANDS).query_duplicate_flags_matrix_one_shot(matrix)


def datasketch(texts: list[str]):
    from datasketch import MinHash, MinHashLSH

    grams = ([gram.encode() for gram in set(five_grams(text))] for text in texts)
    hashes = list(MinHash.generator(grams, num_perm=PERMUTATIONS, seed=1))
    index = MinHashLSH(num_perm=PERMUTATIONS, params=(BANDS, PERMUTATIONS // BANDS))
    for i, sketch in enumerate(hashes):
        index.insert(i, sketch)
    return _unzip((i, j) for i, sketch in enumerate(hashes) for j in index.query(sketch) if i < j)


def datatrove(texts: list[str]):
    from datatrove.pipeline.dedup import MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import HashConfig, MinhashConfig

    # Not its default xxhash, which fails from xxhash 4 on; the hash is a small part of the time.
    config = MinhashConfig(num_buckets=BANDS, hashes_per_bucket=PERMUTATIONS // BANDS, hash_config=HashConfig(hash_fc="sha1"))
    block = MinhashDedupSignature(tempfile.gettempdir(), config)
    for text in texts:
        shingles = block.get_shingles(text)
        if shingles.size:  # none for a text of fewer than five words, which it passes over
            block.get_signature(shingles)


def _unzip(pairs) -> tuple[list[int], list[int]]:
    pairs = list(pairs)
    return [i for i, _ in pairs], [j for _, j in pairs]


def measure(engine: str, path: Path, sample: int) -> dict:
    """Run one engine in this process; give its times, and its pairs among the first rows."""
    texts = json.loads(path.read_text())
    run = globals()[engine.replace(" ", "_")]
    run(texts[:300])  # imports and compilation
    cpu, wall = time.process_time(), time.perf_counter()
    pairs = run(texts)
    result = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    if pairs is not None:
        result |= {"pairs": len(pairs[0]), "sample": _first(*pairs, sample)}
    if engine == "tunegate":
        from tunegate.curate.near_duplicates import verified

        verified(texts[:300], pairs[0][:0], pairs[1][:0], JACCARD)
        cpu = time.process_time()
        left, right, _ = verified(texts, *pairs, JACCARD)
        result |= {"verify": time.process_time() - cpu, "verified": len(left), "verified_sample": _first(left, right, sample)}
    return result | {"rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10}


def _first(left, right, sample: int) -> list[tuple[int, int]]:
    return [(int(i), int(j)) for i, j in zip(left, right, strict=True) if i < sample and j < sample]


def in_own_process(engine: str, path: Path, sample: int, limit: float) -> dict | None:
    """Measure an engine with one thread; none when it takes more than `limit` seconds."""
    command = [sys.executable, __file__, "--measure", engine, "--corpus", str(path), "--sample", str(sample)]
    one_thread = {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, env=os.environ | one_thread, capture_output=True, text=True, check=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return None
    except subprocess.CalledProcessError as error:
        sys.exit(f"{engine} failed: {error.stderr}")
    return json.loads(done.stdout)


def importable(engine: str) -> bool:
    from importlib.util import find_spec

    return find_spec(engine.split()[0]) is not None


def compare(kind: str, rows: int, engines: list[str], repeats: int, limit: float, directory: Path) -> dict[str, list[dict] | None]:
    """Run all engines in turn, print their table, and give the results; none for an engine that took too long."""
    path = directory / f"{kind}-{rows}.json"
    texts = corpus(kind, rows)
    path.write_text(json.dumps(texts))
    sample = min(rows, SAMPLE[kind])
    exact = exact_pairs(texts[:sample])
    mean = sum(map(len, texts)) / len(texts)
    del texts
    results: dict[str, list[dict] | None] = {engine: [] for engine in engines}
    for _ in range(repeats):
        for engine in engines:
            if results[engine] is not None:
                result = in_own_process(engine, path, sample, limit)
                results[engine] = None if result is None else results[engine] + [result]
    print(f"\n### {rows:,} {kind}, {mean:.0f} characters on average\n")
    print("| engine | CPU s | wall s | rows / CPU s | × ours | peak MiB | candidate pairs | recall | precision |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for engine, runs in results.items():
        print(_line(engine, runs, results["tunegate"], rows, exact, limit))
    if ours := results["tunegate"]:
        found = {tuple(pair) for pair in ours[0]["verified_sample"]}
        print(
            f"\nVerified by exact Jaccard (ours): {ours[0]['verified']:,} pairs at {JACCARD:g} or more, "
            f"{_median(ours, 'verify'):.2f} CPU s; of the {len(exact):,} among the first {sample:,} texts "
            f"recall {_share(found & exact, exact)}, precision {_share(found & exact, found)}."
        )
    path.unlink()
    return results


def _line(engine: str, runs: list[dict] | None, ours: list[dict] | None, rows: int, exact: set, limit: float) -> str:
    if runs is None:
        return f"| {engine} | > {limit:g} | | | | | | | |"
    cpu = _median(runs, "cpu")
    ratio = f"{statistics.median(a['cpu'] / b['cpu'] for a, b in zip(runs, ours, strict=True)):.1f}" if ours else ""
    times = f"| {engine} | {cpu:.2f} | {_median(runs, 'wall'):.2f} | {rows / cpu:,.0f} | {ratio} | {_median(runs, 'rss'):,.0f} |"
    if "pairs" not in runs[0]:
        return f"{times} | | |"
    found = {tuple(sorted(pair)) for pair in runs[0]["sample"]}
    return f"{times} {runs[0]['pairs']:,} | {_share(found & exact, exact)} | {_share(found & exact, found)} |"


def _median(runs: list[dict], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def _share(part: set, whole: set) -> str:
    return f"{len(part) / len(whole):.4f}" if whole else "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--kinds", nargs="+", choices=WORDS, default=list(WORDS))
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--limit", type=float, default=900, help="seconds after which an engine is given up for a size")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--corpus", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--sample", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure, given.corpus, given.sample)))
        return
    engines = [engine for engine in given.engines if importable(engine)]
    print(f"Candidate pairs by MinHash: {PERMUTATIONS} permutations, {BANDS} bands, one thread, medians of {given.repeats} runs.")
    print("`× ours` is CPU time as a multiple of tunegate's, the median of the ratios of paired runs.\n")
    for engine in engines:
        if ENGINES[engine]:
            print(f"- {engine}: {ENGINES[engine]}")
    for engine in set(given.engines) - set(engines):
        print(f"- {engine}: not installed here, not measured")
    with tempfile.TemporaryDirectory() as directory:
        for kind in given.kinds:
            before = None
            for rows in sorted(given.rows):
                some = [engine for engine in engines if rows <= LARGEST.get(engine, rows)]
                ours = compare(kind, rows, some, given.repeats, given.limit, Path(directory)).get("tunegate")
                if ours and before:
                    factor = _median(ours, "cpu") / before[1]
                    print(f"\nGrowth (ours): {rows / before[0]:g} times the rows cost {factor:.1f} times the CPU time.")
                before = (rows, _median(ours, "cpu")) if ours else None


if __name__ == "__main__":
    main()
