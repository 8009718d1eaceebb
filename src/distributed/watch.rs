//! A thread that renews the lease of this process and watches the others.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use super::{Error, Kept, Result, Shared, members};

/// Maximum time between two checks.
const INTERVAL: Duration = Duration::from_secs(2);

/// A running watch; dropping it ends the thread.
pub(super) struct Watch {
    /// Dropping it ends the thread.
    until: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Calls `lost` once another process is lost, or the others have lost this one.
    pub(super) fn start(
        shared: Arc<Shared>,
        process: usize,
        count: usize,
        lost: impl FnOnce(String) + Send + 'static,
    ) -> Result<Self> {
        let (until, ended) = channel();
        let watcher = Watcher {
            shared,
            others: (0..count).filter(|&other| other != process).collect(),
        };
        let watch = move || {
            if let Some(why) = watcher.run(&ended) {
                lost(why);
            }
        };
        let thread = Builder::new().name("processes".into()).spawn(watch)?;
        Ok(Watch {
            until: Some(until),
            thread: Some(thread),
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.until.take());
        if let Some(thread) = self.thread.take() {
            // A panic was reported already.
            let _ = thread.join();
        }
    }
}

struct Watcher {
    shared: Arc<Shared>,
    /// Processes that have not ended.
    others: BTreeSet<usize>,
}

impl Watcher {
    /// Returns what was lost, or `None` once the watch is dropped.
    fn run(mut self, ended: &Receiver<()>) -> Option<String> {
        // Several checks per lease, so that a late one does no harm.
        let interval = (self.shared.heartbeat / 5).min(INTERVAL);
        while ended.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
            match self.look() {
                Ok(None) => {}
                Ok(lost) => return lost,
                // If the store stays unavailable the lease expires, which is reported once it is back.
                Err(error) => crate::report::detail(|| error.to_string()),
            }
        }
        None
    }

    fn look(&mut self) -> Result<Option<String>> {
        let Shared {
            etcd,
            prefix,
            lease,
            heartbeat,
        } = &*self.shared;
        let address = etcd.address();
        match etcd.keep_alive(*lease)? {
            Kept::Alive => {}
            Kept::RanOut => {
                return Ok(Some(format!(
                    "etcd at {address} did not hear from this process for {heartbeat:?}"
                )));
            }
            Kept::Forgotten => {
                let address = address.to_owned();
                return Ok(Some(Error::Forgotten { address }.to_string()));
            }
        }
        // In this order: a process that ended normally and is missing in the first list is in the second.
        let joined = members(etcd, &format!("{prefix}/joined/"))?;
        for (process, failure) in members(etcd, &format!("{prefix}/ended/"))? {
            if self.others.remove(&process) && !failure.is_empty() {
                return Ok(Some(format!("process {process} failed: {failure}")));
            }
        }
        let gone = self
            .others
            .iter()
            .find(|other| joined.iter().all(|(process, _)| process != *other));
        Ok(gone.map(|process| format!("process {process} gave no sign of life for {heartbeat:?}")))
    }
}
