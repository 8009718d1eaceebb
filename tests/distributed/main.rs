//! Several processes: how they find each other through a real etcd server, the messages they exchange, training, and
//! failures. No plugin of CI computes over several processes: in their place are two made here with the C compiler, one that
//! exchanges values through the callbacks as others do to start, and one that lets each process compute all replicas.
//! `scripts/gpu_pair.py` is the same on two GPUs, where there are any.
#![allow(clippy::unwrap_used)]

mod server;
mod training;

#[path = "../common/records.rs"]
mod records;

#[path = "../common/mod.rs"]
mod common;

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::error;
use common::stand_in::compile;
use pjrt::{KeyValueStore, StoreError};
use rigl_xla::distributed::{Error, Group, Membership};
use server::Server;

/// `rigl-xla train` as each of two processes, the arguments of each after those of both.
fn pair(both: &[&str], own: [&[&str]; 2]) -> [Output; 2] {
    pair_of(["2", "2"], both, own)
}

/// [`pair`], where each process is given their number.
fn pair_of(counts: [&str; 2], both: &[&str], own: [&[&str]; 2]) -> [Output; 2] {
    let start = |process: usize| {
        Command::new(env!("CARGO_BIN_EXE_rigl-xla"))
            .args(["train", "--num-processes", counts[process]])
            .args(["--process-id", &process.to_string()])
            .args(both)
            .args(own[process])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    [start(0), start(1)].map(|child| child.wait_with_output().unwrap())
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Two processes of the program, a server, and between them a plugin in C that calls back: the bridge as a GPU plugin uses it.
#[test]
fn clients_find_each_other() {
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    let plugin = compile("tests/distributed/exchange.c", dir.path());
    let (plugin, out) = (plugin.to_str().unwrap(), dir.path().join("run"));
    let both = [
        "--etcd",
        server.address(),
        "--device",
        "gpu",
        "--plugin",
        plugin,
        "--data",
        "synthetic",
    ];
    let outputs = pair(&[&both[..], &["--out", out.to_str().unwrap()]].concat(), [&[], &[]]);
    for (process, output) in outputs.iter().enumerate() {
        let stderr = stderr(output);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        // 5: not found, 4: deadline exceeded, 8: resource exhausted, as etcd calls what is far above its limit.
        let expected = format!(
            "exchange: node {process}; of 2; put 0; again 0; get 0; try 0; get 0; try 0; empty 0; absent 5; late 4; \
             in time 1; too large 8; threads 0;"
        );
        assert!(stderr.contains(&expected), "{process}: {stderr}");
        // Its own failure, or that of the other, which it learned first.
        assert!(stderr.contains("PJRT_Client_Create: node"), "{process}: {stderr}");
    }
    // A run that failed before its first checkpoint removes its folder.
    assert!(!out.exists());
}

/// Tells a child which of the tests it is part of, and the address of its server.
const CHILD: &str = "RIGL_XLA_TEST_PROCESS";

/// Generous, for a busy machine; two tests wait this long.
const HEARTBEAT: Duration = Duration::from_secs(20);

fn membership(address: &str, process: usize, count: usize) -> Membership {
    Membership {
        process,
        count,
        etcd: address.into(),
        job: "runs/test".into(),
        patience: Duration::from_secs(120),
        heartbeat: HEARTBEAT,
    }
}

/// The child's group, whose loss ends it with exit code 3; `None` in the test itself.
fn as_child(test: &str) -> Option<Group> {
    let parameters = std::env::var(CHILD).ok()?;
    let parts: Vec<&str> = parameters.split(' ').collect();
    let &[of, address, process, count] = parts.as_slice() else {
        panic!("{parameters}")
    };
    let lost = |why: String| {
        eprintln!("lost: {why}");
        std::process::exit(3);
    };
    let number = |text: &str| text.parse().unwrap();
    (of == test).then(|| Group::join(&membership(address, number(process), number(count)), lost).unwrap())
}

/// Runs a test again in a separate process, as process `process` of `count`.
fn child(test: &str, server: &Server, process: usize, count: usize) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(CHILD, format!("{test} {} {process} {count}", server.address()))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn succeed(children: Vec<Child>) {
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    }
}

#[test]
fn processes_gather_and_sum() {
    let test = "processes_gather_and_sum";
    let Some(group) = as_child(test) else {
        let server = Server::start();
        return succeed((0..3).map(|process| child(test, &server, process, 3)).collect());
    };
    let process = group.process();
    // More than ten times: number 1 is not taken for number 10.
    for round in 0..12 {
        let all = group.gather(&format!("{round} of {process}")).unwrap();
        assert_eq!(all, (0..3).map(|p| format!("{round} of {p}")).collect::<Vec<_>>());
    }
    assert_eq!(group.sums(&[process, 10]).unwrap(), [3, 30]);
    let settings = |seed: usize| {
        [
            ("train.seed".to_string(), seed.to_string()),
            ("data".into(), "mnist".into()),
        ]
    };
    group.agree(&settings(7)).unwrap();
    let differs = group.agree(&settings(process / 2)).unwrap_err().to_string();
    assert_eq!(
        differs,
        "processes differ in train.seed: it is 1 for process 2, and 0 for process 0"
    );

    // The first request to stop holds for all.
    assert_eq!(group.stops_at().unwrap(), None);
    group.gather("").unwrap();
    if process == 1 {
        group.stop_at(700).unwrap();
    }
    group.gather("").unwrap();
    group.stop_at(800).unwrap();
    assert_eq!(group.stops_at().unwrap(), Some(700));

    // No process ends before the last has read its values.
    std::thread::sleep(Duration::from_millis(400) * process as u32);
    assert_eq!(group.gather("last").unwrap(), ["last"; 3]);
    group.end(None).unwrap();
}

/// Process 1 is killed, which process 0 learns while it waits for it. Both are then started again at once, while the
/// keys of the time before are still there.
#[test]
fn killed_process_is_noticed_and_a_new_attempt_starts() {
    let test = "killed_process_is_noticed_and_a_new_attempt_starts";
    const AGAIN: &str = "RIGL_XLA_TEST_AGAIN";
    if let Some(group) = as_child(test) {
        group
            .put(b"key", std::env::var(AGAIN).unwrap_or_default().as_bytes())
            .unwrap();
        if std::env::var_os(AGAIN).is_some() {
            assert_eq!(group.get(b"key", Duration::from_secs(1)).unwrap(), b"again");
            assert_eq!(group.stops_at().unwrap(), None);
            return group.end(None).unwrap();
        }
        group.stop_at(5).unwrap();
        group.gather("both").unwrap();
        eprintln!("joined");
        if group.process() == 1 {
            std::thread::sleep(Duration::from_secs(600));
        }
        panic!("{:?}", group.gather("only process 0"));
    }
    let server = Server::start();
    let [first, mut second] = [0, 1].map(|process| child(test, &server, process, 2));
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(second.stderr.take().unwrap()), &mut line).unwrap();
    assert_eq!(line, "joined\n");
    second.kill().unwrap();
    second.wait().unwrap();
    let output = first.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("lost: process 1 gave no sign of life for 20s"),
        "{}",
        stderr(&output)
    );

    // Process 0's keys remain for some seconds. Process 1 comes first and finds them.
    let again = |process| {
        Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture"])
            .env(CHILD, format!("{test} {} {process} 2", server.address()))
            .env(AGAIN, "again")
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    };
    let second = again(1);
    std::thread::sleep(Duration::from_millis(500));
    succeed(vec![again(0), second]);
}

#[test]
fn failing_process_sends_its_reason() {
    let test = "failing_process_sends_its_reason";
    if let Some(group) = as_child(test) {
        if group.process() == 1 {
            return group.end(Some("its disk is full")).unwrap();
        }
        panic!("{:?}", group.gather("nobody answers"));
    }
    let server = Server::start();
    let [first, second] = [0, 1].map(|process| child(test, &server, process, 2));
    succeed(vec![second]);
    let output = first.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("lost: process 1 failed: its disk is full"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn reports_a_store_that_lost_its_data() {
    let test = "reports_a_store_that_lost_its_data";
    if let Some(group) = as_child(test) {
        group.put(b"key", b"value").unwrap();
        eprintln!("joined");
        std::thread::sleep(Duration::from_secs(600));
    }
    let mut server = Server::start();
    let mut process = child(test, &server, 0, 1);
    let mut words = std::io::BufReader::new(process.stderr.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut words, &mut line).unwrap();
    assert_eq!(line, "joined\n");
    server.restart_empty();
    let mut stderr = String::new();
    std::io::Read::read_to_string(&mut words, &mut stderr).unwrap();
    assert_eq!(process.wait().unwrap().code(), Some(3), "{stderr}");
    let expected = format!("lost: etcd at {} lost the keys of this job", server.address());
    assert!(stderr.contains(&expected), "{stderr}");
}

#[test]
fn reports_an_unreachable_store_in_time() {
    let server = Server::start();
    let lost = |why: String| panic!("{why}");
    let group = Group::join(&membership(server.address(), 0, 1), lost).unwrap();
    group.put(b"key", b"value").unwrap();
    assert_eq!(group.try_get(b"key").unwrap().unwrap(), b"value");
    assert_eq!(group.try_get(b"ke").unwrap(), None);
    drop(server);
    let started = Instant::now();
    let error = group.get(b"key", Duration::from_secs(60)).unwrap_err();
    assert_eq!(error.code, StoreError::UNAVAILABLE, "{error}");
    assert!(error.message.contains("kv/range"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(30));
}

#[test]
fn rejects_a_duplicate_process_id() {
    let server = Server::start();
    let lost = |why: String| panic!("{why}");
    let hasty = |process| Membership {
        patience: Duration::from_secs(2),
        ..membership(server.address(), process, 2)
    };
    let join = |process| Group::join(&membership(server.address(), process, 2), lost).unwrap();
    let [_first, _second] = std::thread::scope(|scope| {
        let joining = [0, 1].map(|process| scope.spawn(move || join(process)));
        joining.map(|thread| thread.join().unwrap())
    });
    let again = Group::join(&hasty(1), lost).map(|_| ()).unwrap_err();
    assert!(matches!(again, Error::Replaced { process: 1, .. }), "{again}");
}

#[test]
fn checks_flags_before_waiting_for_others() {
    for (args, code, expected) in [
        (
            &["--num-processes", "2"][..],
            2,
            "no --process-id: expected one, as --num-processes is 2",
        ),
        (
            &["--num-processes", "2", "--process-id", "2"],
            2,
            "--process-id 2: expected 0 to 1, as --num-processes is 2",
        ),
        (
            &["--process-id", "1"],
            2,
            "--process-id 1: expected 0, as --num-processes is 1",
        ),
        (
            &["--num-processes", "2", "--process-id", "0"],
            2,
            "no --etcd: expected HOST:PORT of a server, as --num-processes is 2",
        ),
        (
            &["--num-processes", "2", "--process-id", "0", "--etcd", "https://host:1"],
            2,
            "--etcd https://host:1: expected HOST:PORT of an etcd server, reached without TLS",
        ),
        (
            &["--num-processes", "3"],
            2,
            "--num-processes: device.processes is 3, expected a number that divides train.batch_size, which is 100",
        ),
        (
            &["--num-processes", "4", "--replicas", "2"],
            2,
            "--num-processes: device.processes is 4, expected a number that divides device.replicas, which is 2",
        ),
        (
            &["--num-processes", "0"],
            2,
            "--num-processes: device.processes is 0, expected a whole number from 1",
        ),
        (
            &["--num-processes", "2", "--process-id", "0", "--etcd", "127.0.0.1:1"],
            1,
            "etcd at 127.0.0.1:1, maintenance/status: ",
        ),
    ] {
        let message = error(&[&["train"], args].concat(), code);
        assert!(message.contains(expected), "{args:?}: {message}");
    }
}

#[test]
fn reports_missing_processes() {
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    let out = dir.path().join("run");
    let out = out.to_str().unwrap();
    for (process, missing) in [("0", "process 1, 2"), ("2", "the others")] {
        let flags = [
            "--num-processes",
            "3",
            "--process-id",
            process,
            "--etcd",
            server.address(),
            "--join-timeout",
            "1",
        ];
        let message = error(
            &[&["train", "--batch-size", "99", "--out", out], &flags[..]].concat(),
            1,
        );
        let expected = format!("error: process {process} of 3 waited 1s for {missing}, as job '{out}' at etcd ");
        assert!(message.starts_with(&expected), "{message}");
    }
    assert!(!Path::new(out).exists());
}

/// The arguments of both processes of a run on examples that need no files.
fn synthetic<'a>(server: &'a Server, out: &'a Path) -> [&'a str; 6] {
    let (address, out) = (server.address(), out.to_str().unwrap());
    ["--etcd", address, "--out", out, "--data", "synthetic"]
}

#[test]
fn rejects_processes_with_different_runs() {
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    let out = dir.path().join("run");
    let both = synthetic(&server, &out);
    for (own, expected) in [
        (
            &["--seed", "4"][..],
            "processes differ in train.seed: it is 4 for process 1, and 0 for process 0",
        ),
        (
            &["--overwrite"],
            "processes differ in what to do: it is --overwrite for process 1, and neither --resume nor --overwrite for process 0",
        ),
        (
            &["--steps-per-launch", "7"],
            "processes differ in train.steps_per_launch: it is 7 for process 1, and 100 for",
        ),
    ] {
        for output in pair(&both, [&[], own]) {
            assert_eq!(output.status.code(), Some(1), "{own:?}: {}", stderr(&output));
            assert!(stderr(&output).contains(expected), "{own:?}: {}", stderr(&output));
        }
    }
    // One that waits for a third process gets an error.
    for output in pair_of(["2", "3"], &both, [&["--batch-size", "96"]; 2]) {
        let expected = "processes differ in device.processes: it is 3 for process 1, and 2 for process 0";
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    }
    assert!(!out.exists());
}

/// The CPU plugins do not support several processes: a client sees only its own devices.
#[test]
fn rejects_a_plugin_without_distributed_runtime() {
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    let out = dir.path().join("run");
    let both = synthetic(&server, &out);
    for output in pair(&both, [&[], &[]]) {
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        let expected =
            "the cpu client knows devices of 1 process, expected those of 2: its plugin does not run over several";
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    }
}
