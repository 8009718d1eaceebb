//! One process per plugin, because two copies of a compiler in one process may conflict.

use std::process::Command;

use rigl_xla::plugins::{self, Package};

/// Tells a child which of the tests it is.
const CHILD: &str = "RIGL_XLA_TEST_PLUGIN";

/// Runs `suite` on the plugin of `package` in a separate process, which runs only the test `test`.
pub fn in_own_process(test: &str, package: &str, suite: impl FnOnce()) {
    if std::env::var(CHILD).is_ok_and(|child| child == test) {
        return suite();
    }
    let path = plugins::fetch(Package::named(package).unwrap()).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(CHILD, test)
        .env("RIGL_XLA_PLUGIN", path)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{package}: {}\n{text}", output.status);
}
