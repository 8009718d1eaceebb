//! Starts the client of a device. That of a TPU waits for all hosts of its slice.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use pjrt::{Client, ClientOptions, DeviceKind, Plugin};

use super::error::{Error, Result};
use super::tpu_host::Slice;
use super::trouble::explain;
use crate::report::note;

/// Time after which a waiting TPU runtime is reported.
const QUIET: Duration = Duration::from_secs(30);

/// Starts a client on the plugin's devices. After `patience`, if any, a TPU client that still waits is an error; its thread
/// then waits until the process ends.
///
/// # Errors
/// As [`Plugin::client`]; for TPUs with what helps.
pub fn start(kind: DeviceKind, plugin: Plugin, options: &ClientOptions, patience: Option<Duration>) -> Result<Client> {
    if kind != DeviceKind::Tpu {
        return Ok(plugin.client(options)?);
    }
    let (sender, receiver) = mpsc::channel();
    let options = options.clone();
    let begin = move || {
        // Nobody listens after a timeout.
        let _ = sender.send(plugin.client(&options));
    };
    let thread = std::thread::Builder::new().name("tpu client".into()).spawn(begin);
    thread.map_err(Error::io("a thread for the TPU client".as_ref()))?;
    let first = patience.map_or(QUIET, |patience| patience.min(QUIET));
    let mut started = receiver.recv_timeout(first);
    if let (Err(RecvTimeoutError::Timeout), None) = (&started, patience) {
        let slice = Slice::from_environment();
        note!("the TPU runtime is waiting; every host of a slice must run this command (hosts: {slice})");
        started = receiver.recv().map_err(RecvTimeoutError::from);
    }
    if let (Err(RecvTimeoutError::Timeout), Some(patience)) = (&started, patience) {
        started = receiver.recv_timeout(patience.saturating_sub(first));
    }
    let late = |_| Error::Late {
        seconds: patience.unwrap_or(QUIET).as_secs(),
    };
    let client = started.map_err(late).and_then(|client| Ok(client?));
    client.map_err(|error| explain(kind, error))
}
