//! How processes join an attempt.
//!
//! Process 0 names the attempt after its lease, whose id is unique. The others store the names of their leases below it. Once all
//! are there, process 0 publishes the list. A process that finds its name in the list has joined. Keys of earlier processes whose
//! leases have not expired contain other names; they are ignored until process 0 starts a new attempt.

use std::time::Instant;

use super::{Error, Etcd, Kept, Lease, Membership, Result, members, wait};

/// Joins the current attempt; process 0 starts a new one. Returns the prefix of its keys.
pub(super) fn join(etcd: &Etcd, asked: &Membership, lease: Lease) -> Result<String> {
    let joining = Joining {
        etcd,
        asked,
        lease,
        started: Instant::now(),
        attempt: format!("rigl-xla/{}/attempt", asked.job),
        name: lease.name(),
    };
    match asked.process {
        0 => joining.first(),
        _ => joining.other(),
    }
}

struct Joining<'a> {
    etcd: &'a Etcd,
    asked: &'a Membership,
    lease: Lease,
    started: Instant,
    /// Key of the attempt's name.
    attempt: String,
    /// Name of this process's lease.
    name: String,
}

impl Joining<'_> {
    /// Joins as process 0.
    fn first(&self) -> Result<String> {
        self.etcd
            .put(self.attempt.as_bytes(), self.name.as_bytes(), self.lease)?;
        let prefix = self.prefix(&self.name);
        let joined = format!("{prefix}/joined/");
        self.put(&format!("{joined}0"))?;
        let mut found = vec![];
        let all = wait(Some(self.asked.patience), || {
            self.keep()?;
            if self.current()?.as_deref() != Some(&self.name) {
                return Err(self.replaced());
            }
            found = members(self.etcd, &joined)?;
            Ok((found.len() >= self.asked.count).then_some(()))
        })?;
        if all.is_none() {
            let absent = (0..self.asked.count).filter(|n| found.iter().all(|(process, _)| process != n));
            let absent: Vec<String> = absent.map(|n| n.to_string()).collect();
            return Err(self.alone(format!("process {}", absent.join(", "))));
        }
        let strange = found.iter().find(|&&(process, _)| process >= self.asked.count);
        if let Some((process, _)) = strange {
            return Err(self.alone(format!("{} processes and found a process {process}", self.asked.count)));
        }
        let names: Vec<String> = found.into_iter().map(|(_, name)| name).collect();
        let list = serde_json::json!(names).to_string();
        let begun = format!("{prefix}/begun");
        self.etcd.put(begun.as_bytes(), list.as_bytes(), self.lease)?;
        Ok(prefix)
    }

    /// Joins as any other process.
    fn other(&self) -> Result<String> {
        let mut taken = false;
        let joined = wait(Some(self.asked.patience), || {
            self.keep()?;
            let Some(attempt) = self.current()? else {
                return Ok(None);
            };
            let prefix = self.prefix(&attempt);
            let key = format!("{prefix}/joined/{}", self.asked.process);
            taken = !self.etcd.create(key.as_bytes(), self.name.as_bytes(), self.lease)?;
            let begun = self.etcd.get(format!("{prefix}/begun").as_bytes())?;
            let names = begun.and_then(|list| serde_json::from_slice::<Vec<String>>(&list).ok());
            let ours = names.is_some_and(|names| names.get(self.asked.process) == Some(&self.name));
            Ok((ours && !taken).then_some(prefix))
        })?;
        match (joined, taken) {
            (Some(prefix), _) => Ok(prefix),
            (None, true) => Err(self.replaced()),
            (None, false) => Err(self.alone("the others".into())),
        }
    }

    fn prefix(&self, attempt: &str) -> String {
        format!("rigl-xla/{}/{attempt}", self.asked.job)
    }

    fn put(&self, key: &str) -> Result<()> {
        self.etcd.put(key.as_bytes(), self.name.as_bytes(), self.lease)
    }

    /// The current attempt.
    fn current(&self) -> Result<Option<String>> {
        let found = self.etcd.get(self.attempt.as_bytes())?;
        Ok(found.map(|name| String::from_utf8_lossy(&name).into_owned()))
    }

    /// Renews the lease, because waiting may take longer.
    fn keep(&self) -> Result<()> {
        match self.etcd.keep_alive(self.lease)? {
            Kept::Forgotten => Err(Error::Forgotten {
                address: self.etcd.address().into(),
            }),
            // The others notice an expired lease.
            Kept::Alive | Kept::RanOut => Ok(()),
        }
    }

    fn replaced(&self) -> Error {
        Error::Replaced {
            process: self.asked.process,
            job: self.asked.job.clone(),
        }
    }

    fn alone(&self, missing: String) -> Error {
        Error::Alone {
            process: self.asked.process,
            count: self.asked.count,
            missing,
            waited: self.started.elapsed(),
            job: self.asked.job.clone(),
            address: self.etcd.address().into(),
        }
    }
}
