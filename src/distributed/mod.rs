//! Several processes that train one network together, each on its own devices, on one machine or on several.
//!
//! The devices exchange gradients by themselves; this is how their processes find each other and what they agree on besides: by
//! way of etcd, a key-value store that runs beside them. All keys of a run begin with its job's name and the attempt that it is:
//! a run that is started again finds nothing of the time before. They are bound to leases, so that they go with their process.
//!
//! A collective that waits for a process that is gone waits for ever, and nothing can call it off. So each process watches the
//! others and is told when one is lost; the program then ends, and the run goes on from its last checkpoint.

mod error;
mod etcd;
mod join;
mod watch;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::pjrt::{KeyValueStore, StoreError};

pub use error::{Error, Result};
pub use etcd::{Etcd, Kept, Lease};

/// Seconds for which is known how a process ended.
const END_SECONDS: u64 = 600;
/// Between two questions for a key that is not there yet, from the first to the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));

/// Which process this is to be, and how it finds the others.
#[derive(Clone, Debug)]
pub struct Membership {
    /// Number of the process, from 0.
    pub process: usize,
    /// How many there are.
    pub count: usize,
    /// Address of the store.
    pub etcd: String,
    /// What the run is called there, the same for all.
    pub job: String,
    /// How long the others may take to come.
    pub patience: Duration,
    /// How long a process may give no sign of life before it is lost, in whole seconds; a few at least, as etcd takes one to
    /// find a new leader.
    pub heartbeat: Duration,
}

/// The processes of a run, as one of them sees them.
pub struct Group {
    process: usize,
    count: usize,
    shared: Arc<Shared>,
    /// How often all have said something.
    said: AtomicU64,
    /// Until this process ends.
    watch: Mutex<Option<watch::Watch>>,
}

/// What the thread that watches needs too.
struct Shared {
    etcd: Etcd,
    /// What all keys of this attempt begin with.
    prefix: String,
    lease: Lease,
    /// That of the lease.
    heartbeat: Duration,
}

impl Group {
    /// Waits for the other processes. Once one of them is lost or has failed, `lost` is called, on a thread of its own, with
    /// what became of it.
    ///
    /// # Errors
    /// A store that cannot be reached, processes that do not come, or another with this one's number.
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
            said: AtomicU64::new(0),
        })
    }

    /// Number of this process, from 0.
    pub fn process(&self) -> usize {
        self.process
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// What every process says, in their order, once all have: a call that all of them make, in the same order among such
    /// calls.
    ///
    /// # Errors
    /// The store's.
    pub fn gather(&self, own: &str) -> Result<Vec<String>> {
        let Shared {
            etcd, prefix, lease, ..
        } = &*self.shared;
        let said = format!("{prefix}/said/{}/", self.said.fetch_add(1, Ordering::Relaxed));
        etcd.put(format!("{said}{}", self.process).as_bytes(), own.as_bytes(), *lease)?;
        let all = wait(None, || {
            Ok(Some(members(etcd, &said)?).filter(|all| all.len() >= self.count))
        })?;
        Ok(all.unwrap_or_default().into_iter().map(|(_, words)| words).collect())
    }

    /// Sums over all processes, as [`Group::gather`].
    ///
    /// # Errors
    /// The store's.
    pub fn sums(&self, own: &[usize]) -> Result<Vec<usize>> {
        let mut sums = vec![0; own.len()];
        let words = serde_json::json!(own).to_string();
        for (process, found) in self.gather(&words)?.into_iter().enumerate() {
            let Some(parts) = serde_json::from_str::<Vec<usize>>(&found)
                .ok()
                .filter(|p| p.len() == own.len())
            else {
                return Err(Error::Words { process, found });
            };
            sums.iter_mut().zip(parts).for_each(|(sum, part)| *sum += part);
        }
        Ok(sums)
    }

    /// Makes sure that all processes have the same values, as [`Group::gather`].
    ///
    /// # Errors
    /// [`Error::Differ`], the same for all, or the store's.
    pub fn agree(&self, own: &[(String, String)]) -> Result<()> {
        let words = serde_json::json!(own).to_string();
        let read = |(process, found): (usize, String)| {
            serde_json::from_str(&found).map_err(|_| Error::Words { process, found })
        };
        let all = self.gather(&words)?.into_iter().enumerate().map(read);
        let all: Vec<Vec<(String, String)>> = all.collect::<Result<_>>()?;
        let Some((first, others)) = all.split_first() else {
            return Ok(());
        };
        let mut others = others.iter().zip(1..);
        let different = others.find_map(|(said, process)| differs(process, said, first));
        different.map_or(Ok(()), Err)
    }

    /// Lets all processes stop at iteration `at`, unless one of them has already said at which. It must be one that no other
    /// process can have passed.
    ///
    /// # Errors
    /// The store's.
    pub fn stop_at(&self, at: u64) -> Result<()> {
        let Shared {
            etcd, prefix, lease, ..
        } = &*self.shared;
        let key = format!("{prefix}/stop");
        etcd.create(key.as_bytes(), at.to_string().as_bytes(), *lease)
            .map(|_| ())
    }

    /// The iteration at which all are to stop, once one has said so.
    ///
    /// # Errors
    /// The store's.
    pub fn stops_at(&self) -> Result<Option<u64>> {
        let found = self
            .shared
            .etcd
            .get(format!("{}/stop", self.shared.prefix).as_bytes())?;
        Ok(found.and_then(|at| String::from_utf8(at).ok()?.parse().ok()))
    }

    /// Tells the others how this process ended, and without a failure waits until all have: until then they may ask for what it
    /// said. The last call.
    ///
    /// # Errors
    /// The store's.
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

    /// Tells the others that this process has ended, with this failure; without a text, well.
    ///
    /// # Errors
    /// The store's.
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

/// What the clients of a plugin tell each other.
impl KeyValueStore for Group {
    fn get(&self, key: &[u8], timeout: Duration) -> std::result::Result<Vec<u8>, StoreError> {
        wait(Some(timeout), || self.shared.etcd.get(&self.plugin_key(key)))?.ok_or_else(|| {
            let (process, key) = (self.process, key.escape_ascii());
            let message =
                format!("process {process} waited {timeout:.1?} for the key {key} of another process in vain");
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
fn differs(process: usize, said: &[(String, String)], first: &[(String, String)]) -> Option<Error> {
    let find = |values: &[(String, String)], what: &str| {
        let found = values.iter().find(|(key, _)| key == what);
        found.map_or("nothing".to_owned(), |(_, value)| value.clone())
    };
    let keys = first.iter().chain(said).map(|(key, _)| key);
    let values = keys.map(|what| (what, find(said, what), find(first, what)));
    let (what, found, expected) = values.into_iter().find(|(_, found, expected)| found != expected)?;
    Some(Error::Differ {
        what: what.clone(),
        process,
        found,
        expected,
    })
}

/// Asks again and again until there is an answer; `None` once `timeout` has passed.
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

/// What processes have put under `prefix`, in their order.
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
        let said = |values: [(&str, &str); 2]| values.map(|(key, value)| (key.to_string(), value.to_string()));
        let first = said([("train.seed", "0"), ("data", "a")]);
        assert!(differs(1, &first, &first).is_none());
        let error = differs(3, &said([("train.seed", "0"), ("data", "b")]), &first).expect("b is not a");
        assert_eq!(
            error.to_string(),
            "processes differ in data: it is b for process 3, and a for process 0"
        );
        let error = differs(1, &said([("train.seed", "0"), ("more", "c")]), &first).expect("no data");
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
