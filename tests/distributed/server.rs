//! An etcd server of a test's own.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rigl_xla::programs::ETCD;

/// Ends with the value.
pub struct Server {
    child: Child,
    address: String,
    ports: [u16; 2],
    _data: tempfile::TempDir,
}

impl Server {
    /// Starts one and waits until it listens.
    pub fn start() -> Self {
        // A port may be taken between being found free and being used.
        (0..5).find_map(|_| Server::try_start()).expect("etcd does not start")
    }

    fn try_start() -> Option<Self> {
        Server::try_start_at([free_port(), free_port()])
    }

    /// Ends the server and starts another one, without its data, at the same address.
    pub fn restart_empty(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        *self = Server::try_start_at(self.ports).expect("etcd does not start again");
    }

    fn try_start_at([clients, peers]: [u16; 2]) -> Option<Self> {
        let data = tempfile::tempdir().unwrap();
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let mut etcd = ETCD.command().unwrap_or_else(|e| panic!("{e}"));
        let child = etcd
            .args(["--log-level", "error", "--name", "test", "--data-dir"])
            .arg(data.path())
            .args([
                "--listen-client-urls",
                &url(clients),
                "--advertise-client-urls",
                &url(clients),
            ])
            .args([
                "--listen-peer-urls",
                &url(peers),
                "--initial-advertise-peer-urls",
                &url(peers),
            ])
            .args(["--initial-cluster", &format!("test={}", url(peers))])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut server = Server {
            child,
            address: format!("127.0.0.1:{clients}"),
            ports: [clients, peers],
            _data: data,
        };
        let started = Instant::now();
        while TcpStream::connect(&server.address).is_err() {
            if server.child.try_wait().unwrap().is_some() || started.elapsed() > Duration::from_secs(30) {
                return None;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(server)
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
