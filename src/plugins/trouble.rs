//! Why a TPU does not start: known messages of the TPU runtime, each with a remedy.

use std::fmt;
use std::path::Path;

use pjrt::DeviceKind;

use super::error::Error;
use super::packages::Package;
use super::tpu_host::{Chips, Slice};

/// A known reason why the TPU runtime does not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// No chip, or none that the runtime can see.
    NoChip,
    /// Another process has the chips.
    Taken,
    /// The lock file of a process that has ended.
    StaleLock,
    /// This user may not open the chips.
    NotAllowed,
    /// The library does not know the chips, or differs between hosts.
    WrongLibrary,
    /// Other hosts of the slice have not started, or cannot be reached.
    HostsMissing,
    /// The runtime waits for something unknown.
    Silent,
}

/// Parts of messages, as they are in libtpu 0.0.52 and in reports about older ones. The first that fits decides.
const SIGNS: [(&str, Trouble); 20] = [
    ("already in use by", Trouble::Taken),
    ("Couldn't open iommu group", Trouble::Taken),
    ("Device or resource busy", Trouble::Taken),
    ("multi-process lockfile", Trouble::StaleLock),
    ("right LibTPU version", Trouble::WrongLibrary),
    ("LibTPU is built for", Trouble::WrongLibrary),
    ("Unsupported TPU version", Trouble::WrongLibrary),
    ("Unsupported TpuVersion", Trouble::WrongLibrary),
    ("incompatible libtpu", Trouble::WrongLibrary),
    ("Failed to connect to", Trouble::HostsMissing),
    ("Failed to get all host address mappings", Trouble::HostsMissing),
    ("Initialization of slice failed", Trouble::HostsMissing),
    ("Slice health check failed", Trouble::HostsMissing),
    ("Permission denied", Trouble::NotAllowed),
    ("Operation not permitted", Trouble::NotAllowed),
    ("No TPU platform", Trouble::NoChip),
    ("No TPU Platform", Trouble::NoChip),
    ("No TPU devices", Trouble::NoChip),
    ("No TPU cores", Trouble::NoChip),
    ("Host has no TPUs", Trouble::NoChip),
];

impl Trouble {
    /// The reason that a message of the runtime gives.
    pub fn of(message: &str) -> Option<Trouble> {
        let sign = SIGNS.iter().find(|(part, _)| message.contains(part));
        sign.map(|(_, trouble)| *trouble)
    }

    /// The remedy on this machine.
    fn remedy(self, chips: Option<&Chips>, slice: &Slice) -> String {
        let topology = chips.map_or_else(|| "v5e:2x2".to_owned(), Chips::topology);
        let without = format!("`rigl-xla train --dry-run --topology {topology}` needs no chip");
        match self {
            Trouble::NoChip => format!("use a machine with a TPU; {without}"),
            Trouble::Taken => format!(
                "wait for that process or end it (`sudo lsof -w /dev/accel* /dev/vfio/*` shows it); several runs on one host \
                 take a chip each with `sweep --devices`; {without}"
            ),
            Trouble::StaleLock => "if no process uses the chips, remove /tmp/libtpu_lockfile".to_owned(),
            Trouble::NotAllowed => {
                "run as a user who may open /dev/accel* or /dev/vfio/*, and in a container pass the \
                 devices and `--ulimit memlock=-1`"
                    .to_owned()
            }
            Trouble::WrongLibrary => {
                let package = Package::of(DeviceKind::Tpu).next();
                let package = package.map_or_else(|| "libtpu".to_owned(), Package::requirement);
                format!(
                    "use the same libtpu on every host, one that knows the chips: `rigl-xla plugin fetch tpu` fetches \
                     {package}, and --plugin names another"
                )
            }
            Trouble::HostsMissing => format!(
                "start the same command on every host of the slice, each with its number, and let them reach each other \
                 (hosts: {slice}); to use this host alone, set TPU_PROCESS_BOUNDS=1,1,1 and TPU_CHIPS_PER_PROCESS_BOUNDS"
            ),
            Trouble::Silent => {
                "the runtime may wait for the other hosts of a slice, or for the metadata server of Google \
                 Cloud: start the command on all hosts, or outside of that cloud set TPU_SKIP_MDS_QUERY=1"
                    .to_owned()
            }
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Trouble::NoChip => "the TPU runtime finds no chip",
            Trouble::Taken => "another process uses the TPU",
            Trouble::StaleLock => "a lock file keeps processes from the TPU",
            Trouble::NotAllowed => "the TPU cannot be opened",
            Trouble::WrongLibrary => "this libtpu does not fit the TPU or the other hosts",
            Trouble::HostsMissing => "other hosts of the TPU slice are missing",
            Trouble::Silent => "the TPU runtime does not start",
        })
    }
}

/// Adds what helps to an error of starting a device, if its reason is known.
pub(super) fn explain(kind: DeviceKind, error: Error) -> Error {
    let trouble = match (&error, kind) {
        (_, DeviceKind::Cpu | DeviceKind::Gpu) | (Error::Tpu { .. }, DeviceKind::Tpu) => None,
        (Error::Pjrt { source }, DeviceKind::Tpu) if is_other_version(source) => Some(Trouble::WrongLibrary),
        (Error::Late { .. }, DeviceKind::Tpu) => Some(match Slice::from_environment().hosts.len() {
            0 | 1 => Trouble::Silent,
            _ => Trouble::HostsMissing,
        }),
        (error, DeviceKind::Tpu) => Trouble::of(&error.to_string()),
    };
    match trouble {
        None => error,
        Some(trouble) => Error::Tpu {
            trouble,
            remedy: trouble.remedy(Chips::find(Path::new("/")).as_ref(), &Slice::from_environment()),
            source: Box::new(error),
        },
    }
}

fn is_other_version(error: &pjrt::Error) -> bool {
    matches!(error, pjrt::Error::Version { .. } | pjrt::Error::Unsupported { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages of libtpu and of reports about it.
    #[test]
    fn messages_of_the_runtime_have_a_reason() {
        for (message, expected) in [
            (
                "The TPU is already in use by process with pid 176028. Not attempting to load",
                Trouble::Taken,
            ),
            (
                "open(/dev/vfio/0): Device or resource busy: Couldn't open iommu group /dev/vfio/0",
                Trouble::Taken,
            ),
            (
                "Internal error when accessing libtpu multi-process lockfile. Run",
                Trouble::StaleLock,
            ),
            (
                "Are you using the right LibTPU version? This LibTPU is built for v4",
                Trouble::WrongLibrary,
            ),
            (
                "TPU initialization failed: open(/dev/accel0): Operation not permitted",
                Trouble::NotAllowed,
            ),
            (
                "Initialization of slice failed with error status: DEADLINE_EXCEEDED",
                Trouble::HostsMissing,
            ),
            ("No TPU platform available.", Trouble::NoChip),
        ] {
            assert_eq!(Trouble::of(message), Some(expected), "{message}");
        }
        assert_eq!(Trouble::of("something else"), None);
    }

    #[test]
    fn only_errors_of_tpus_are_explained() {
        let error = || Error::Late { seconds: 1 };
        assert!(matches!(explain(DeviceKind::Gpu, error()), Error::Late { .. }));
        let told = explain(DeviceKind::Tpu, error());
        assert!(matches!(told, Error::Tpu { .. }));
        assert!(
            matches!(explain(DeviceKind::Tpu, told), Error::Tpu { source, .. } if matches!(*source, Error::Late { .. }))
        );
    }
}
