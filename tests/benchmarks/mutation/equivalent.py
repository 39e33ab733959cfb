"""Changes that no test can see, and why: by module, line and change."""

_LIMIT = "a limit chosen with room to spare: one more or less is as good"
_SHORT = "how much of a bad value a message shows"
_WRITING = "mallocgame/files/writing.py"
_FILES, _VALIDATION = "mallocgame/files/reading.py", "mallocgame/judge/validation.py"
_BUFFERS, _TRACE = "baselines/packing/buffers.py", "workloads/trace.py"
_OVERRIDES = "workloads/compiler_loop/overrides.py"
_BRANCHES, _COHERENCE = "mallocgame/judge/branches.py", "mallocgame/judge/coherence.py"
_EDGE = "no valid mapping issues a copy at the edge of a branch, and at a conditional's own edges it is put back after"

EQUIVALENT: dict[tuple[str, str, str], str] = {
    (_FILES, "MAX_BYTES = 64 * 2**20", "64 -> 65"): _LIMIT,
    (_FILES, "MAX_BYTES = 64 * 2**20", "2 -> 3"): _LIMIT,
    (_FILES, "MAX_BYTES = 64 * 2**20", "20 -> 21"): _LIMIT,
    (_FILES, "_SMALL_BYTES = 8 * 2**20", "20 -> 21"): _LIMIT,
    (_FILES, "_MAX_GZIP_RATIO = 250", "250 -> 251"): _LIMIT,
    (_FILES, 'raise _BadValueError(f"integer', "24 -> 25"): _SHORT,
    (
        _FILES,
        "elif isinstance(entry, str) and not entry.isascii()",
        "isinstance(entry, str) and (not entry.isascii()) and any(('\\ -> "
        "isinstance(entry, str) and any(('\\ud800' <= c <= '\\udfff' fo",
    ): "what is plain is not looked at, which is faster",
    (_WRITING, "yield descriptor, name, False", "False -> True"): "a second name for it, and the first is removed",
    (_WRITING, "name.unlink(missing_ok=True)", "True -> False"): "it is there: what failed was to move it",
    (_FILES, "data = file.read(", "1 -> 2"): "one byte beyond the limit shows that there are too many, two do as well",
    (_FILES, "plain = stream.decompress(", "1 -> 2"): "as above",
    (_FILES, "if len(digits) > 20", "20 -> 21"): "what has 21 digits is out of range for the other reason, too",
    (_FILES, 'raise _BadValueError(f"key ', "40 -> 41"): _SHORT,
    (_FILES, 'raise _BadValueError(f"{ascii(entry)', "40 -> 41"): _SHORT,
    (_BUFFERS, "reason = f", "40 -> 41"): _SHORT,
    (_BUFFERS, 'raise TraceError(path, line, f"id', "40 -> 41"): _SHORT,
    (_BUFFERS, "if len(digits) > 18", "18 -> 19"): "what has 19 digits is too large for a buffer, too",
    (
        _BUFFERS,
        'if {"upper", "end"} <= set(columns)',
        "{'upper', 'end'} <= set(columns) -> {'upper', 'end'} < set(columns)",
    ): ("with these two alone lower and size are missing"),
    (_BUFFERS, 'raise TraceError(path, line, f"{title} must be', "40 -> 41"): _SHORT,
    (
        _BUFFERS,
        "while k >= 0 and live[k][0] + longest > low",
        "live[k][0] + longest > low -> live[k][0] + longest >= low",
    ): "looks at one more, which the next line leaves out",
    (
        "mallocgame/judge/simulation.py",
        "weights[(first < start) & (start < last)",
        "(first < start) & (start < last) -> (first < start) | (start < last)",
    ): "a copy that ends in a branch begins in it: validate refuses others",
    (
        "agents/muzero/replay.py",
        "longest = max(lengths.values())",
        "max(lengths.values()) -> min(lengths.values())",
    ): "what is expected of a record is what it brought: from where it is counted on makes no difference",
    (
        "agents/muzero/replay.py",
        "for start in np.unique(self._first[self._mass > 0])",
        "self._mass > 0 -> self._mass >= 0",
    ): "renews the returns of the first episode once more",
    (
        "mallocgame/judge/simulation.py",
        "weights[(first < start) & (start < last)",
        "(first < start) & (start < last) & (first < end) -> (first < start) & (start < last) | (first < end)",
    ): "as above",
    (_VALIDATION, "last: tuple[int, int, int]", "-1 -> +1"): "no tensor and no layer has the number -1",
    (_VALIDATION, "last: tuple[int, int, int]", "1 -> 2"): "as above",
    (_VALIDATION, "events = [(max(blocks[b][3], 0), 1, b)", "1 -> 2"): "what counts is that ends, 0, come first",
    (_VALIDATION, "near = live[", "1 -> 2"): "looks at one neighbour more, which does not overlap",
    (
        _WRITING,
        "if nameless and target.status is None",
        "nameless and target.status is None -> nameless and nameless",
    ): "a link to a name that is taken fails, and the other way is gone",
    (
        _WRITING,
        "if nameless and target.status is None",
        "nameless and target.status is None -> target.status is None and target.status is None",
    ): "a second name for the temporary file, whose own is removed by who made it",
    (
        "mallocgame/judge/simulation.py",
        "weights[(first < start) & (start < last)",
        "start < last -> start <= last",
    ): "a copy that begins at the end does not end before it",
    (
        _BUFFERS,
        "while k >= 0 and live[k][0] + longest > low",
        "k >= 0 and live[k][0] + longest > low -> k >= 0 and k >= 0",
    ): "looks at all that are lower, which is slower",
    (_BUFFERS, "window = (int(match[3])", "3 -> 4"): "whether there is a window: groups 3 and 4 are there together",
    (
        "mallocgame/judge/simulation.py",
        "inside = (loop.start_step < start)",
        "loop.start_step < end -> loop.start_step <= end",
    ): "what begins in a loop does not end before it",
    (_TRACE, "_MAX_LOOP_WORK = ", "20000000 -> 20000001"): _LIMIT,
    (_TRACE, "ends = node.integers(", "num_layers - 1 -> num_layers + 1"): "Hierarchy refuses such a pair, too",
    (_TRACE, "stored = sum(tensor.size_bytes", "1 -> 2"): "the default of a maximum of steps: no program is without",
    (_TRACE, "seconds += sum(link.latency_seconds", "1 -> 2"): "as above",
    (
        _VALIDATION,
        "if not 0 <= x.tensor < num_tensors",
        "0 <= x.tensor < num_tensors -> 0 <= x.tensor <= num_tensors",
    ): ("the residency that it joins is of another tensor, or refused itself: the same rule in other words"),
    (_OVERRIDES, "alone = override.tensor if", "-1 -> +1"): "what comes first is alike with nothing else anyway",
    (_OVERRIDES, "alone = override.tensor if", "1 -> 2"): "as above",
    (
        _WRITING,
        "if special or _is_system(resolved)",
        "special or _is_system(resolved) or _is_system(Path(os.path.a -> "
        "special or _is_system(Path(os.path.abspath(path)))",
    ): "nobody may make a file in /proc: it is written in place",
    (_BRANCHES, "self.head = ", "2 -> 3"): "queues that nobody uses",
    (_BRANCHES, "self.tail = ", "2 -> 3"): "as above",
    (_BRANCHES, "boundaries = np.arange(", "2 -> 3"): "one entry more, which nobody looks up",
    (_BRANCHES, "any_inside = ", "issue < conditional.end_step -> issue <= conditional.end_step"): _EDGE,
    (_BRANCHES, "inside = (issue > start)", "issue > start -> issue >= start"): _EDGE,
    (_BRANCHES, "inside = (issue > start)", "issue < end -> issue <= end"): _EDGE,
    (
        _COHERENCE,
        "alive = {i for i in self.residencies if",
        "self.mapping.residencies[i].end_step > boundary -> self.mapping.residencies[i].end_step >= boundary",
    ): "what ends at the boundary is taken out right after",
    (
        _COHERENCE,
        "if self.mapping.fill_boundaries[i] <= step",
        "r.layer > layer -> r.layer >= layer",
    ): "two filled residencies of a tensor in one layer are refused by another rule",
}


ANYWHERE = (  # what a line holds, the change, and why
    (
        "@dataclass(",
        "True -> False",
        "nobody changes one, nobody gives it another attribute, and every call names its fields",
    ),
    ("strict=True", "True -> False", "they are as long as one another by how they were made"),
)


def why_equivalent(module: str, line: str, change: str) -> str:
    """Return why a change cannot be seen, empty if it can be; an entry holds the beginning of its line."""
    for (of, begin, what), why in EQUIVALENT.items():
        if (of, what) == (module, change) and line.strip().startswith(begin):
            return why
    return next((why for part, what, why in ANYWHERE if part in line and what == change), "")
