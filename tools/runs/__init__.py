"""Records of jobs, hooks, progress."""

from typing import TYPE_CHECKING

from drawstream.samplers.exports import lazy_exports

if TYPE_CHECKING:
    from drawstream.tools.runs import record
    from drawstream.tools.runs.config import ConfigAnywhere, read_config, use_config, used_config
    from drawstream.tools.runs.hooks import JOURNAL, Hook, Hooks, check_hooks, load_hooks, open_journal
    from drawstream.tools.runs.identity import (
        file_hash,
        loader_identity,
        model_identity,
        named_identity,
        objective_identity,
        part_identity,
        quarantine_hash,
        shapes_hash,
        training_identity,
    )
    from drawstream.tools.runs.options import (
        COUNT,
        FEW,
        FINITE,
        MANY,
        RENAMED,
        ROWS,
        SEED,
        SOME,
        Options,
        argument,
        command,
        option,
        pick,
    )
    from drawstream.tools.runs.progress import Progress, notes_of, tell_notes
    from drawstream.tools.runs.record import (
        BEFORE,
        before,
        command_line,
        conclude,
        files_below,
        finish,
        finished_record,
        hold_identity,
        machine,
        read_record,
        require_there,
        reuse,
        tell_finished,
        versions,
        write_json,
        write_record,
        write_result,
    )
else:
    __getattr__, __dir__, __all__ = lazy_exports(__name__)
