"""Every reader of a file that somebody else may have written, with whole files to start from, all made here."""

from tests.fuzz.readers import agent, compilers, robust, sequences, sweeps, traces
from tests.fuzz.readers.shared import Reader

READERS: dict[str, Reader] = {
    reader.name: reader for module in (traces, compilers, sequences, robust, agent, sweeps) for reader in module.READERS
}
