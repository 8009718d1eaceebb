//! Transparent huge pages.

/// Enables transparent huge pages for malloc. Each launch allocates about 1 GB of temporaries, and page faults would take
/// 10-20 % of a training step (`scripts/bench/results/pages.md`). glibc reads the setting only at the start of a program, so
/// this restarts the program in the same process. If that fails, the program continues without huge pages. Call it before
/// anything else.
pub fn enable() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    linux::enable();
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod linux {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    const VARIABLE: &str = "GLIBC_TUNABLES";
    const SETTING: &str = "glibc.malloc.hugetlb";
    /// Environment variable with the number of restarts.
    const STARTS: &str = "RIGL_XLA_STARTS";
    /// glibc 2.35 and 2.36 compare the system's mode with a string without terminator and ignore the setting in every other
    /// start.
    const MOST_STARTS: u32 = 8;

    pub(super) fn enable() {
        let starts = std::env::var(STARTS).ok().and_then(|n| n.parse().ok()).unwrap_or(0);
        let set = std::env::var(VARIABLE).unwrap_or_default();
        // Respect a setting of the user, even an empty one.
        let decided = starts == 0 && set.contains(SETTING);
        if decided || starts >= MOST_STARTS || !on_request() || (starts > 0 && active()) {
            return;
        }
        let Ok(program) = std::env::current_exe() else {
            return;
        };
        let set = match (starts, set.is_empty()) {
            (0, true) => format!("{SETTING}=1"),
            (0, false) => format!("{set}:{SETTING}=1"),
            _ => set,
        };
        let mut args = std::env::args_os();
        let mut command = Command::new(program);
        if let Some(name) = args.next() {
            command.arg0(name);
        }
        let environment = [(VARIABLE, set), (STARTS, (starts + 1).to_string())];
        // Returns only on failure.
        let _ = command.args(args).envs(environment).exec();
    }

    /// Whether the system gives huge pages only on request.
    fn on_request() -> bool {
        let mode = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
        mode.is_ok_and(|mode| mode.contains("[madvise]"))
    }

    /// Whether malloc requests huge pages.
    fn active() -> bool {
        // Large enough for a mapping of its own.
        let probe = vec![0u8; 64 << 20];
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
        drop(std::hint::black_box(probe));
        let mut flags = maps.lines().filter(|line| line.starts_with("VmFlags:"));
        flags.any(|line| line.split_whitespace().any(|flag| flag == "hg"))
    }
}
