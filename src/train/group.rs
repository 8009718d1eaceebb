//! Agreement between the processes of a run: same configuration, same start, common stop.

use super::error::Result;
use crate::checkpoint::Mode;
use crate::config::Plan;
use crate::data::sets::{Examples, first_bits};
use crate::distributed::Group;
use hlo::Literal;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Keys that may differ between processes: paths and settings of their machines.
const OWN: [&str; 5] = [
    "data.dir",
    "data.threads",
    "data.prefetch",
    "device.plugin",
    "output.dir",
];

/// Checks that all processes run the same version of this program with the same configuration.
///
/// # Errors
/// The first difference, and failures of the communication.
pub fn same_run(group: &Group, plan: &Plan, mode: Mode) -> Result<()> {
    let mode = match mode {
        Mode::Fresh => "neither --resume nor --overwrite",
        Mode::Resume => "--resume",
        Mode::Overwrite => "--overwrite",
    };
    let program = [
        ("the version of rigl-xla", env!("CARGO_PKG_VERSION")),
        ("what to do", mode),
    ];
    let mut settings: Vec<_> = program.map(|(what, value)| (what.into(), value.into())).into();
    let values = plan.run.values()?.into_iter();
    settings.extend(values.filter(|(key, _)| !OWN.contains(&key.as_str())));
    Ok(group.agree(&settings)?)
}

/// Checks that all processes have the same examples and start from the same state. Compares the layout of files instead of the
/// examples in them.
///
/// # Errors
/// As [`same_run`].
pub fn same_start(
    group: &Group,
    arrays: &BTreeMap<String, Literal>,
    iteration: u64,
    [train, test]: [&Examples; 2],
) -> Result<()> {
    let set = |set: &Examples| format!("{} examples with digest {:016x}", set.len(), set.digest());
    let mut state = Sha256::new();
    for (name, array) in arrays {
        state.update(name);
        state.update(array.bytes());
    }
    let digests = [
        ("the training set", set(train)),
        ("the test set", set(test)),
        ("the iteration to start from", iteration.to_string()),
        (
            "the state to start from",
            format!("one with digest {:016x}", first_bits(state)),
        ),
    ];
    Ok(group.agree(&digests.map(|(what, value)| (what.to_owned(), value)))?)
}

/// Whether a run stops after `done` iterations, given that this process is `asked` to stop or not. A launch ends only after all
/// processes have begun it. So a request that is published after one launch reaches all processes before the end of the next
/// one, at iteration `next`, where all stop.
///
/// # Errors
/// Failures of the store.
pub fn stops(group: Option<&Group>, asked: bool, done: u64, next: Option<u64>) -> Result<bool> {
    let Some(group) = group else { return Ok(asked) };
    if let (true, Some(next)) = (asked, next) {
        group.stop_at(next)?;
    }
    Ok(group.stops_at()?.is_some_and(|at| at <= done))
}
