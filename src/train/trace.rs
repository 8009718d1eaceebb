//! What the profiler of the devices records (`train --profile`), where the plugin brings one.

use super::error::{Error, Result};
use crate::checkpoint::{RunDir, atomic};
use crate::device::Device;
use crate::pjrt::Profiler;
use crate::report::note;
use std::fs;
use std::io::Write;
use std::path::PathBuf;

/// A recording, as TensorBoard's profile plugin finds it when it is given the run folder: `plugins/profile`, a folder for
/// each recording, in it a file for each host.
pub struct Trace {
    profiler: Profiler,
    dir: PathBuf,
}

impl Trace {
    /// Of devices that have a profiler. What goes wrong with it is told and keeps no run from going on.
    pub fn new(device: &Device, dir: &RunDir) -> Option<Self> {
        Some(Trace {
            profiler: told(device.profiler())??,
            dir: dir.path().join("plugins/profile"),
        })
    }

    /// Begins, if the profiler does.
    pub fn start(mut self) -> Option<Self> {
        told(self.profiler.start()).map(|()| self)
    }

    /// Ends and writes what was recorded, named after the `iteration` it ends with. The file; `None` where the profiler fails.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(mut self, iteration: u64) -> Result<Option<PathBuf>> {
        let Some(data) = told(self.profiler.stop().and_then(|()| self.profiler.collect())) else {
            return Ok(None);
        };
        let dir = self.dir.join(format!("iteration-{iteration}"));
        let path = dir.join("host.xplane.pb");
        let written = fs::create_dir_all(&dir).and_then(|()| atomic::write(&path, |out| out.write_all(&data)));
        match written {
            Ok(()) => Ok(Some(path)),
            Err(source) => Err(Error::Metrics { path, source }),
        }
    }
}

fn told<T, E: std::fmt::Display>(result: std::result::Result<T, E>) -> Option<T> {
    result.inspect_err(|e| note!("no profile of the devices: {e}")).ok()
}
