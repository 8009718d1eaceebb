//! The flags that say which of several processes this is.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Plan;
use crate::processes::{Error, Group, Membership, Result};

/// Which process this is, and how it finds the others.
#[derive(clap::Args, Clone, Debug)]
pub struct ProcessArgs {
    /// Number of this process among them, from 0; the first writes the run folder
    #[arg(long, value_name = "I", env = "RIGL_XLA_PROCESS_ID")]
    process_id: Option<usize>,
    /// etcd server through which processes find each other
    #[arg(long, value_name = "HOST:PORT", env = "RIGL_XLA_ETCD")]
    etcd: Option<String>,
    /// Seconds that the other processes may take to come
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    join_timeout: u64,
    /// Seconds without a sign of life after which a process is given up, and the run with it
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..=3600))]
    heartbeat_timeout: u64,
}

impl ProcessArgs {
    /// Waits for the other processes of the plan; `None` where there are none. Once one of them is lost this process ends: it
    /// may be in a call that waits for the lost one and that nothing can call off.
    ///
    /// # Errors
    /// Flags that are missing or do not go with the plan, and processes that do not come.
    pub fn join(&self, plan: &Plan) -> Result<Option<Arc<Group>>> {
        let Some(membership) = self.membership(plan)? else {
            return Ok(None);
        };
        let lost = |why: String| {
            crate::report::note!(
                "error: {why}; this process ends too, and --resume goes on from the newest checkpoint"
            );
            crate::signals::abandon(1);
        };
        Group::join(&membership, lost).map(|group| Some(Arc::new(group)))
    }

    fn membership(&self, plan: &Plan) -> Result<Option<Membership>> {
        let count = plan.processes();
        let wrong = |found: &str, expected: String| Err(Error::Usage(format!("{found}: expected {expected}")));
        if count == 1 {
            // The address may be set for all that runs here.
            return match self.process_id {
                None | Some(0) => Ok(None),
                Some(id) => wrong(&format!("--process-id {id}"), "0, as --num-processes is 1".into()),
            };
        }
        let process = match self.process_id {
            Some(id) if id < count => id,
            Some(id) => {
                let last = count - 1;
                return wrong(
                    &format!("--process-id {id}"),
                    format!("0 to {last}, as --num-processes is {count}"),
                );
            }
            None => return wrong("no --process-id", format!("one, as --num-processes is {count}")),
        };
        let Some(etcd) = self.etcd.clone() else {
            return wrong(
                "no --etcd",
                format!("HOST:PORT of a server, as --num-processes is {count}"),
            );
        };
        Ok(Some(Membership {
            process,
            count,
            etcd,
            // The folder that all of them share.
            job: plan.output_dir.display().to_string(),
            patience: Duration::from_secs(self.join_timeout),
            heartbeat: Duration::from_secs(self.heartbeat_timeout),
        }))
    }
}
