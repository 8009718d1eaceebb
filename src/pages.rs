//! The process's memory pages.

/// Has large arrays lie in huge pages, where the system gives them to those who ask: a compiled program takes its temporary
/// memory anew for every launch, a gigabyte of it, and touching that page by page is a tenth to a fifth of a launch of one
/// training step (`scripts/bench/results/pages.md`). The C library of Linux reads this setting only when a program starts, so
/// the program starts again as the same process; where that fails it goes on without. To be called before anything else
/// happens.
pub fn ask_for_huge() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    linux::ask();
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod linux {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    const VARIABLE: &str = "GLIBC_TUNABLES";
    const SETTING: &str = "glibc.malloc.hugetlb";
    /// How often the program has started again.
    const STARTS: &str = "RIGL_XLA_STARTS";
    /// glibc 2.35 and 2.36 compare what the system says of huge pages with text that they forgot to end, so that every other
    /// start does not heed the setting.
    const MOST_STARTS: u32 = 8;

    pub(super) fn ask() {
        let starts = std::env::var(STARTS).ok().and_then(|n| n.parse().ok()).unwrap_or(0);
        let set = std::env::var(VARIABLE).unwrap_or_default();
        // Whoever has set it, even to nothing, has decided.
        let decided = starts == 0 && set.contains(SETTING);
        if decided || starts >= MOST_STARTS || !on_request() || (starts > 0 && heeded()) {
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
        // Returns only when it fails.
        let _ = command.args(args).envs(environment).exec();
    }

    /// Whether the system gives huge pages to those who ask, and to no others.
    fn on_request() -> bool {
        let mode = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
        mode.is_ok_and(|mode| mode.contains("[madvise]"))
    }

    /// Whether memory is asked for in huge pages.
    fn heeded() -> bool {
        // Large enough to be asked for on its own.
        let probe = vec![0u8; 64 << 20];
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
        drop(std::hint::black_box(probe));
        let mut flags = maps.lines().filter(|line| line.starts_with("VmFlags:"));
        flags.any(|line| line.split_whitespace().any(|flag| flag == "hg"))
    }
}
