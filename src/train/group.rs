//! What the processes of a run make sure of together, beside what their devices compute.

use super::error::Result;
use crate::checkpoint::Mode;
use crate::config::Plan;
use crate::data::sets::{Examples, first_bits};
use crate::distributed::Group;
use hlo::Literal;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Keys of which each process may have a value of its own: what is where on its machine.
const OWN: [&str; 5] = [
    "data.dir",
    "data.threads",
    "data.prefetch",
    "device.plugin",
    "output.dir",
];

/// Refuses processes that are not asked for the same run by the same version of this program.
///
/// # Errors
/// The first difference, or what keeps the processes from telling each other.
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
    let mut said: Vec<_> = program.map(|(what, value)| (what.into(), value.into())).into();
    let values = plan.run.values()?.into_iter();
    said.extend(values.filter(|(key, _)| !OWN.contains(&key.as_str())));
    Ok(group.agree(&said)?)
}

/// Refuses processes that have other examples, or start from another state. Of examples in files the layout of the
/// files is compared.
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
    let said = [
        ("the training set", set(train)),
        ("the test set", set(test)),
        ("the iteration to start from", iteration.to_string()),
        (
            "the state to start from",
            format!("one with digest {:016x}", first_bits(state)),
        ),
    ];
    Ok(group.agree(&said.map(|(what, value)| (what.to_owned(), value)))?)
}

/// Whether a run that has done `done` iterations is to stop now, where this process is `asked` to. A launch ends only once all
/// processes have begun it: so whoever is asked after one has the word out before any process ends the next, which ends at
/// `next`, and there all of them stop.
///
/// # Errors
/// The store's.
pub fn stops(group: Option<&Group>, asked: bool, done: u64, next: Option<u64>) -> Result<bool> {
    let Some(group) = group else { return Ok(asked) };
    if let (true, Some(next)) = (asked, next) {
        group.stop_at(next)?;
    }
    Ok(group.stops_at()?.is_some_and(|at| at <= done))
}
