//! The process's memory pages.

/// Has large arrays lie in huge pages, where the system gives them to those who ask: a compiled program takes its temporary
/// memory anew for every launch, a gigabyte of it, and touching that page by page is a tenth to a fifth of a launch of one
/// training step (`scripts/bench/results/pages.md`). The C library of Linux reads this setting only when a program starts, so
/// the program starts again, once, as the same process; where that fails it goes on without. To be called before anything
/// else happens.
pub fn ask_for_huge() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use std::os::unix::process::CommandExt;
        const VARIABLE: &str = "GLIBC_TUNABLES";
        const SETTING: &str = "glibc.malloc.hugetlb";
        let set = std::env::var(VARIABLE).unwrap_or_default();
        // Whoever has set it, even to nothing, has decided.
        if set.contains(SETTING) {
            return;
        }
        let Ok(program) = std::env::current_exe() else {
            return;
        };
        let others = if set.is_empty() { set } else { set + ":" };
        let mut args = std::env::args_os();
        let mut command = std::process::Command::new(program);
        if let Some(name) = args.next() {
            command.arg0(name);
        }
        // Returns only when it fails.
        let _ = command.args(args).env(VARIABLE, format!("{others}{SETTING}=1")).exec();
    }
}
