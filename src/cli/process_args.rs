//! Flags that identify one of several processes.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Plan;
use crate::distributed::{Error, Group, Membership, Result};

/// Identity of this process, and discovery of the others.
#[derive(clap::Args, Clone, Debug)]
pub struct ProcessArgs {
    /// Index of this process, from 0; process 0 writes the run folder
    #[arg(long, value_name = "I", env = "RIGL_XLA_PROCESS_ID")]
    process_id: Option<usize>,
    /// etcd server for discovery of the other processes
    #[arg(long, value_name = "HOST:PORT", env = "RIGL_XLA_ETCD")]
    etcd: Option<String>,
    /// Seconds to wait for the other processes to start
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    join_timeout: u64,
    /// Seconds without a heartbeat after which a process is considered lost and the run ends
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..=3600))]
    heartbeat_timeout: u64,
}

impl ProcessArgs {
    /// Waits for the other processes of the plan; `None` if there are none. If one is lost later, this process exits:
    /// it may be blocked in a collective call that cannot be cancelled.
    ///
    /// # Errors
    /// Flags that are missing or contradict the plan, or processes that do not appear.
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
            // The address may be set in the environment of a machine for all its runs.
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
            // The run folder is shared by all processes.
            job: plan.output_dir.display().to_string(),
            patience: Duration::from_secs(self.join_timeout),
            heartbeat: Duration::from_secs(self.heartbeat_timeout),
        }))
    }
}
