//! TPU chips on the PCI bus and the hosts of a slice, found without the TPU runtime.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// Google's PCI vendor number.
const VENDOR: &str = "0x1ae0";

/// PCI device numbers of TPU chips and the generation in the plugin's topologies, as JAX's `hardware_utils` lists them.
/// v2 and v3 have one number.
const CHIPS: [(&str, &str); 6] = [
    ("0x0027", "v3"),
    ("0x005e", "v4"),
    ("0x0063", "v5e"),
    ("0x0062", "v5p"),
    ("0x006f", "v6e"),
    ("0x0076", "tpu7x"),
];

/// The TPU chips on the PCI bus, whether a driver and a process use them or not.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Chips {
    /// Generation, as in topologies.
    pub generation: &'static str,
    /// Number of chips.
    pub count: usize,
}

impl Chips {
    /// Chips under `root` (`/` but in tests); `None` without any.
    pub fn find(root: &Path) -> Option<Chips> {
        let devices = std::fs::read_dir(root.join("sys/bus/pci/devices")).ok()?;
        let read = |folder: &Path, name: &str| {
            let text = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
            text.trim().to_owned()
        };
        let mut counts = BTreeMap::new();
        for device in devices.flatten().map(|entry| entry.path()) {
            if read(&device, "vendor") == VENDOR {
                let number = read(&device, "device");
                let known = CHIPS.iter().find(|(known, _)| *known == number);
                if let Some((_, name)) = known {
                    *counts.entry(*name).or_insert(0) += 1;
                }
            }
        }
        let (generation, count) = counts.into_iter().max_by_key(|(_, count)| *count)?;
        Some(Chips { generation, count })
    }

    /// The topology of the chips of one host, such as `v5e:2x2`.
    pub fn topology(&self) -> String {
        let flat = matches!(self.generation, "v3" | "v5e" | "v6e");
        let sides = match (self.count, flat) {
            (8, true) => "2x4".to_owned(),
            (4, true) => "2x2".to_owned(),
            (n, true) => format!("1x{n}"),
            (4, false) => "2x2x1".to_owned(),
            (n, false) => format!("1x1x{n}"),
        };
        format!("{}:{sides}", self.generation)
    }
}

impl fmt::Display for Chips {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.generation {
            "v3" => "v2 or v3",
            name => name,
        };
        write!(f, "{} of {name}", self.count)
    }
}

/// The hosts of a slice, as the environment of the TPU runtime names them.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Slice {
    /// Number of this host, from 0.
    pub worker: Option<String>,
    /// Names or addresses; empty if only the metadata server of the cloud knows them.
    pub hosts: Vec<String>,
}

impl Slice {
    /// Reads `TPU_WORKER_ID`, and `TPU_PROCESS_ADDRESSES` or `TPU_WORKER_HOSTNAMES`.
    pub fn from_environment() -> Self {
        Slice::read(|name| std::env::var(name).ok())
    }

    fn read(variable: impl Fn(&str) -> Option<String>) -> Self {
        let given = |name: &&str| variable(name).filter(|value| !value.is_empty());
        let hosts = ["TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"].iter().find_map(given);
        let hosts = hosts.unwrap_or_default();
        Slice {
            worker: ["CLOUD_TPU_TASK_ID", "TPU_WORKER_ID"].iter().find_map(given),
            hosts: hosts
                .split(',')
                .map(str::trim)
                .filter(|host| !host.is_empty())
                .map(str::to_owned)
                .collect(),
        }
    }
}

impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let worker = self.worker.as_deref().unwrap_or("?");
        match self.hosts.as_slice() {
            [] => f.write_str("not in the environment (TPU_WORKER_HOSTNAMES); the metadata server may know them"),
            hosts => write!(f, "{}: {}; this is worker {worker}", hosts.len(), hosts.join(", ")),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn chips_are_counted_on_the_pci_bus() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Chips::find(root.path()), None);
        for (i, (vendor, device)) in [("0x1ae0", "0x0063"); 4]
            .into_iter()
            .chain([("0x8086", "0x0063")])
            .enumerate()
        {
            let folder = root.path().join(format!("sys/bus/pci/devices/0000:00:0{i}.0"));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("vendor"), format!("{vendor}\n")).unwrap();
            std::fs::write(folder.join("device"), format!("{device}\n")).unwrap();
        }
        let chips = Chips::find(root.path()).unwrap();
        assert_eq!(
            (chips.to_string().as_str(), chips.topology().as_str()),
            ("4 of v5e", "v5e:2x2")
        );
        let of = |generation, count| Chips { generation, count }.topology();
        assert_eq!(
            [of("v4", 4), of("v6e", 8), of("v5e", 1), of("v5p", 1)],
            ["v4:2x2x1", "v6e:2x4", "v5e:1x1", "v5p:1x1x1"]
        );
    }

    #[test]
    fn hosts_are_read_from_the_environment() {
        let slice = Slice::read(|name| match name {
            "TPU_WORKER_HOSTNAMES" => Some("10.0.0.1, 10.0.0.2".into()),
            "TPU_WORKER_ID" => Some("1".into()),
            _ => None,
        });
        assert_eq!(slice.to_string(), "2: 10.0.0.1, 10.0.0.2; this is worker 1");
        assert!(Slice::read(|_| None).to_string().contains("TPU_WORKER_HOSTNAMES"));
    }
}
