//! Distributed training: several processes, each with its own devices, on one machine or several.
//!
//! The devices exchange gradients through XLA. This module lets the processes find each other and agree on everything else, by
//! etcd, a key-value store. All keys start with the job and the attempt, so a restarted run sees no keys of earlier attempts.
//! Keys are bound to leases and disappear with their process.
//!
//! A collective that waits for a lost process waits forever and cannot be cancelled. So each process watches the others; if one
//! is lost, the program ends, and the run can be resumed from its last checkpoint.

mod error;
mod etcd;
mod join;
mod watch;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pjrt::{KeyValueStore, StoreError};

pub use error::{Error, Result};
pub use etcd::{Etcd, Kept, Lease};

/// Seconds for which the end of a process stays in the store.
const END_SECONDS: u64 = 600;
/// Pauses between two requests for an absent key: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));

/// Settings of a process: its number, and how it finds the others.
#[derive(Clone, Debug)]
pub struct Membership {
    /// Number of the process, from 0.
    pub process: usize,
    /// Number of processes.
    pub count: usize,
    /// Address of the store.
    pub etcd: String,
    /// Name of the run in the store, the same for all processes.
    pub job: String,
    /// Maximum time to wait for the others to join.
    pub patience: Duration,
    /// Time without a sign of life after which a process is lost, in whole seconds. Use several: etcd needs one to elect a new
    /// leader.
    pub heartbeat: Duration,
}

/// The group of processes of a run, seen from one of them.
pub struct Group {
    process: usize,
    count: usize,
    shared: Arc<Shared>,
    /// Number of calls of [`Group::gather`].
    rounds: AtomicU64,
    /// Watches the others until this process ends.
    watch: Mutex<Option<watch::Watch>>,
}

/// State shared with the watching thread.
struct Shared {
    etcd: Etcd,
    /// Prefix of all keys of this attempt.
    prefix: String,
    lease: Lease,
    /// Time to live of the lease.
    heartbeat: Duration,
}

impl Group {
    /// Waits for the other processes. If one of them is lost or fails later, calls `lost` with a description, on another thread.
    ///
    /// # Errors
    /// The store cannot be reached, processes are missing, or another process has this one's number.
    pub fn join(asked: &Membership, lost: impl FnOnce(String) + Send + 'static) -> Result<Self> {
        let etcd = Etcd::connect(&asked.etcd)?;
        let lease = etcd.grant(asked.heartbeat.as_secs())?;
        let shared = Arc::new(Shared {
            prefix: join::join(&etcd, asked, lease)?,
            etcd,
            lease,
            heartbeat: asked.heartbeat,
        });
        Ok(Group {
            process: asked.process,
            count: asked.count,
            watch: Mutex::new(Some(watch::Watch::start(
                Arc::clone(&shared),
                asked.process,
                asked.count,
                lost,
            )?)),
            shared,
            rounds: AtomicU64::new(0),
        })
    }

    /// Number of this process, from 0.
    pub fn process(&self) -> usize {
        self.process
    }

    /// Number of processes.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Returns the values of all processes, in the order of the processes. All must make the same sequence of calls.
    ///
    /// # Errors
    /// Failures of the store.
    pub fn gather(&self, own: &str) -> Result<Vec<String>> {
        let Shared {
            etcd, prefix, lease, ..
        } = &*self.shared;
        let round = format!("{prefix}/gather/{}/", self.rounds.fetch_add(1, Ordering::Relaxed));
        etcd.put(format!("{round}{}", self.process).as_bytes(), own.as_bytes(), *lease)?;
        let all = wait(None, || {
            Ok(Some(members(etcd, &round)?).filter(|all| all.len() >= self.count))
        })?;
        Ok(all.unwrap_or_default().into_iter().map(|(_, words)| words).collect())
    }

    /// Sums over all processes; see [`Group::gather`].
    ///
    /// # Errors
    /// Failures of the store.
    pub fn sums(&self, own: &[usize]) -> Result<Vec<usize>> {
        let mut sums = vec![0; own.len()];
        let words = serde_json::json!(own).to_string();
        for (process, found) in self.gather(&words)?.into_iter().enumerate() {
            let Some(parts) = serde_json::from_str::<Vec<usize>>(&found)
                .ok()
                .filter(|p| p.len() == own.len())
            else {
                return Err(Error::Message { process, found });
            };
            sums.iter_mut().zip(parts).for_each(|(sum, part)| *sum += part);
        }
        Ok(sums)
    }

    /// Checks that all processes have the same values; see [`Group::gather`].
    ///
    /// # Errors
    /// [`Error::Differ`], the same in all processes, and failures of the store.
    pub fn agree(&self, own: &[(String, String)]) -> Result<()> {
        let words = serde_json::json!(own).to_string();
        let read = |(process, found): (usize, String)| {
            serde_json::from_str(&found).map_err(|_| Error::Message { process, found })
        };
        let all = self.gather(&words)?.into_iter().enumerate().map(read);
        let all: Vec<Vec<(String, String)>> = all.collect::<Result<_>>()?;
        let Some((first, others)) = all.split_first() else {
            return Ok(());
        };
        let mut others = others.iter().zip(1..);
        let different = others.find_map(|(values, process)| differs(process, values, first));
        different.map_or(Ok(()), Err)
    }

    /// Requests that all processes stop at iteration `at`, unless an iteration is set already. No process may have passed it.
    ///
    /// # Errors
    /// Failures of the store.
    pub fn stop_at(&self, at: u64) -> Result<()> {
        let Shared {
            etcd, prefix, lease, ..
        } = &*self.shared;
        let key = format!("{prefix}/stop");
        etcd.create(key.as_bytes(), at.to_string().as_bytes(), *lease)
            .map(|_| ())
    }

    /// The iteration at which all processes stop, if one has requested it.
    ///
    /// # Errors
    /// Failures of the store.
    pub fn stops_at(&self) -> Result<Option<u64>> {
        let found = self
            .shared
            .etcd
            .get(format!("{}/stop", self.shared.prefix).as_bytes())?;
        Ok(found.and_then(|at| String::from_utf8(at).ok()?.parse().ok()))
    }

    /// Publishes the end of this process. Without a failure, waits for the end of all others, which may still read its keys. No
    /// other call may follow.
    ///
    /// # Errors
    /// Failures of the store.
    pub fn end(&self, failure: Option<&str>) -> Result<()> {
        let Shared {
            etcd, prefix, lease, ..
        } = &*self.shared;
        let ended = format!("{prefix}/ended/");
        self.leave(failure.unwrap_or_default())?;
        if failure.is_none() {
            wait(None, || Ok((members(etcd, &ended)?.len() >= self.count).then_some(())))?;
        }
        drop(self.watch.lock().unwrap_or_else(PoisonError::into_inner).take());
        etcd.revoke(*lease)
    }

    /// Publishes that this process has ended, with a failure unless `failure` is empty.
    ///
    /// # Errors
    /// Failures of the store.
    pub fn leave(&self, failure: &str) -> Result<()> {
        let Shared { etcd, prefix, .. } = &*self.shared;
        let key = format!("{prefix}/ended/{}", self.process);
        let lasting = etcd.grant(END_SECONDS)?;
        etcd.put(key.as_bytes(), failure.as_bytes(), lasting)
    }

    fn plugin_key(&self, key: &[u8]) -> Vec<u8> {
        [self.shared.prefix.as_bytes(), b"/plugin/", key].concat()
    }
}

/// The store of the plugin's clients.
impl KeyValueStore for Group {
    fn get(&self, key: &[u8], timeout: Duration) -> std::result::Result<Vec<u8>, StoreError> {
        wait(Some(timeout), || self.shared.etcd.get(&self.plugin_key(key)))?.ok_or_else(|| {
            let (process, key) = (self.process, key.escape_ascii());
            let message = format!("process {process} waited {timeout:.1?} for the key {key} of another process");
            StoreError::new(StoreError::DEADLINE_EXCEEDED, message)
        })
    }

    fn try_get(&self, key: &[u8]) -> std::result::Result<Option<Vec<u8>>, StoreError> {
        Ok(self.shared.etcd.get(&self.plugin_key(key))?)
    }

    fn put(&self, key: &[u8], value: &[u8]) -> std::result::Result<(), StoreError> {
        Ok(self.shared.etcd.put(&self.plugin_key(key), value, self.shared.lease)?)
    }
}

/// The first value in which a process differs from process 0.
fn differs(process: usize, own: &[(String, String)], first: &[(String, String)]) -> Option<Error> {
    let find = |values: &[(String, String)], what: &str| {
        let found = values.iter().find(|(key, _)| key == what);
        found.map_or("nothing".to_owned(), |(_, value)| value.clone())
    };
    let keys = first.iter().chain(own).map(|(key, _)| key);
    let values = keys.map(|what| (what, find(own, what), find(first, what)));
    let (what, found, expected) = values.into_iter().find(|(_, found, expected)| found != expected)?;
    Some(Error::Differ {
        what: what.clone(),
        process,
        found,
        expected,
    })
}

/// Polls until there is an answer; returns `None` after `timeout`.
fn wait<T>(timeout: Option<Duration>, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
    let started = Instant::now();
    let mut pause = PAUSES.0;
    loop {
        if let Some(answer) = ask()? {
            return Ok(Some(answer));
        }
        let left = timeout.map_or(pause, |timeout| timeout.saturating_sub(started.elapsed()));
        if left.is_zero() {
            return Ok(None);
        }
        std::thread::sleep(pause.min(left));
        pause = (2 * pause).min(PAUSES.1);
    }
}

/// Values of processes below `prefix`, in the order of the processes.
fn members(etcd: &Etcd, prefix: &str) -> Result<Vec<(usize, String)>> {
    let read = |(key, value): (Vec<u8>, Vec<u8>)| {
        let process = std::str::from_utf8(key.get(prefix.len()..)?).ok()?.parse().ok()?;
        Some((process, String::from_utf8_lossy(&value).into_owned()))
    };
    let mut found: Vec<_> = etcd.get_all(prefix.as_bytes())?.into_iter().filter_map(read).collect();
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_the_first_difference() {
        let values = |values: [(&str, &str); 2]| values.map(|(key, value)| (key.to_string(), value.to_string()));
        let first = values([("train.seed", "0"), ("data", "a")]);
        assert!(differs(1, &first, &first).is_none());
        let error = differs(3, &values([("train.seed", "0"), ("data", "b")]), &first).expect("b is not a");
        assert_eq!(
            error.to_string(),
            "processes differ in data: it is b for process 3, and a for process 0"
        );
        let error = differs(1, &values([("train.seed", "0"), ("more", "c")]), &first).expect("no data");
        assert_eq!(
            error.to_string(),
            "processes differ in data: it is nothing for process 1, and a for process 0"
        );
    }

    #[test]
    fn waiting_ends_with_an_answer_or_a_timeout() {
        let mut asked = 0;
        let answer = wait(None, || {
            asked += 1;
            Ok((asked == 4).then_some(asked))
        });
        assert_eq!(answer.expect("no error"), Some(4));
        let started = Instant::now();
        let never = wait::<()>(Some(Duration::from_millis(30)), || Ok(None));
        assert_eq!(never.expect("no error"), None);
        assert!((30..1000).contains(&started.elapsed().as_millis()));
    }
}
