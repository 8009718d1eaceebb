//! Checks whether this machine has a device before its plugin is fetched or loaded: GPU packages are large, and the TPU plugin
//! queries the network for minutes if there is no TPU.

use std::path::Path;

use pjrt::DeviceKind;

use super::discover::search;
use super::error::{Error, Result};
use super::packages::Package;
use super::tpu_host::Chips;
use super::whole::Trust;

/// Folders, and prefixes of names in them, of the device nodes of a kind. The CPU has none.
fn patterns(kind: DeviceKind) -> &'static [(&'static str, &'static str)] {
    match kind {
        DeviceKind::Cpu => &[],
        // The driver's files; the last is that of WSL.
        DeviceKind::Gpu => &[("dev", "nvidia"), ("proc/driver/nvidia/gpus", ""), ("dev", "dxg")],
        // v2 to v4, then v5e and newer.
        DeviceKind::Tpu => &[("dev", "accel"), ("dev/vfio", "")],
    }
}

/// Whether `root` has a device node of the kind. Names must have a digit (`nvidia0`, `accel0`, `vfio/0`), because a container
/// may show the folder of a driver without devices.
fn present(root: &Path, kind: DeviceKind) -> bool {
    let has = |(folder, start): &(&str, &str)| {
        let entries = std::fs::read_dir(root.join(folder)).into_iter().flatten().flatten();
        let mut names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.any(|name| {
            let numbered = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
            name.strip_prefix(start)
                .is_some_and(|rest| numbered(rest) || *start == "dxg")
        })
    };
    patterns(kind).is_empty() || patterns(kind).iter().any(has)
}

/// Fails if this machine does not have this kind of device. Does not check if the user names a plugin with `explicit` or
/// `$RIGL_XLA_PLUGIN`, or on systems other than Linux.
///
/// # Errors
/// [`Error::NoDevice`] with the paths that were checked.
pub fn require(kind: DeviceKind, explicit: Option<&str>) -> Result<()> {
    let named = explicit.is_some() || std::env::var_os(super::discover::VARIABLE).is_some_and(|v| !v.is_empty());
    if named || !cfg!(target_os = "linux") || present(Path::new("/"), kind) {
        return Ok(());
    }
    let found = search(kind, None, Trust::Stamp)?
        .into_iter()
        .find(|candidate| candidate.found);
    let name = Package::of(kind).next().map_or("", |package| package.name);
    Err(Error::NoDevice {
        kind,
        nodes: describe(kind),
        package: match found {
            Some(candidate) => format!("{name} (in {})", candidate.path.display()),
            None => format!("{name} (not here either)"),
        },
        hint: match kind {
            DeviceKind::Tpu => tpu_hint(Path::new("/")),
            DeviceKind::Cpu | DeviceKind::Gpu => String::new(),
        },
    })
}

/// The remedy where there are no device nodes: chips on the PCI bus lack their driver.
fn tpu_hint(root: &Path) -> String {
    match Chips::find(root) {
        Some(chips) => format!(
            "; the PCI bus has {chips}, so their driver is missing, or this container does not have its files: pass the device \
             nodes to it"
        ),
        None => {
            "; `rigl-xla compile --topology v5e:2x2` and `train --dry-run --topology v5e:2x2` need no device".into()
        }
    }
}

/// The checked paths, for messages.
fn describe(kind: DeviceKind) -> String {
    let path = |(folder, start): &(&str, &str)| match *start {
        "dxg" => format!("/{folder}/{start}"),
        start => format!("/{folder}/{start}*"),
    };
    patterns(kind).iter().map(path).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn finds_devices_by_their_nodes() {
        for (file, kind, expected) in [
            ("dev/accel0", DeviceKind::Tpu, true),
            ("dev/vfio/0", DeviceKind::Tpu, true),
            ("dev/vfio/vfio", DeviceKind::Tpu, false),
            ("dev/nvidia0", DeviceKind::Gpu, true),
            ("dev/nvidiactl", DeviceKind::Gpu, false),
            ("proc/driver/nvidia/gpus/0000:00:04.0", DeviceKind::Gpu, true),
            ("dev/dxg", DeviceKind::Gpu, true),
            ("dev/null", DeviceKind::Cpu, true),
        ] {
            let root = tempfile::tempdir().unwrap();
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
            assert_eq!(present(root.path(), kind), expected, "{file}");
        }
    }
}
