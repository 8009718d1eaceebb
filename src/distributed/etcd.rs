//! A client of etcd 3 over its JSON gateway.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use ureq::Agent;

use super::{Error, Result};
use pjrt::StoreError;

/// Timeout of a request.
const REQUEST: Duration = Duration::from_secs(10);
/// How long requests to an unavailable server are repeated.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);
/// Maximum bytes of an answer. The server limits requests to 1.5 MB by default.
const MAX_ANSWER_BYTES: u64 = 256 << 20;

/// Result of renewing a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// The lease was renewed.
    Alive,
    /// The lease had expired.
    RanOut,
    /// The store lost its data.
    Forgotten,
}

/// A client of one server. Calls block; if the server is unavailable they are repeated for a few seconds.
pub struct Etcd {
    agent: Agent,
    address: String,
    /// Highest revision seen. It decreases only if the store loses its data.
    revision: AtomicU64,
}

/// A lease. Its keys are deleted when it expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease(i64);

impl Lease {
    /// A name, unique in the store.
    pub fn name(self) -> String {
        format!("{:x}", self.0)
    }
}

impl Etcd {
    /// Connects to the server at `HOST:PORT`, with an optional `http://`.
    ///
    /// # Errors
    /// An invalid address, or a server other than etcd.
    pub fn connect(address: &str) -> Result<Self> {
        let host = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
        let port = host.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        if !matches!(port, Some(Ok(_))) || host.contains('/') {
            return Err(Error::Address { given: address.into() });
        }
        let config = Agent::config_builder()
            .timeout_global(Some(REQUEST))
            .http_status_as_error(false)
            // The server is local; proxies are for the internet.
            .proxy(None)
            .build();
        let etcd = Etcd {
            agent: config.into(),
            address: host.into(),
            revision: AtomicU64::new(0),
        };
        let status = etcd.call("maintenance/status", &json!({}))?;
        let version = status["version"]
            .as_str()
            .ok_or_else(|| etcd.odd("maintenance/status", &status))?;
        crate::report::detail(|| format!("etcd {version} at {host}"));
        Ok(etcd)
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The value of a key, if it has one.
    ///
    /// # Errors
    /// Failures of the server.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let answer = self.call("kv/range", &json!({ "key": BASE64.encode(key) }))?;
        Ok(self.pairs(&answer)?.pop().map(|(_, value)| value))
    }

    /// All keys with a non-empty `prefix` and their values, ordered by key.
    ///
    /// # Errors
    /// Failures of the server.
    pub fn get_all(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        // The end of the range is the next prefix, which exists for text.
        let mut end = prefix.to_vec();
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        let range = json!({ "key": BASE64.encode(prefix), "range_end": BASE64.encode(end) });
        let answer = self.call("kv/range", &range)?;
        self.pairs(&answer)
    }

    /// Sets a key until the lease expires.
    ///
    /// # Errors
    /// Failures of the server, such as a value above its limit of 1.5 MB.
    pub fn put(&self, key: &[u8], value: &[u8], lease: Lease) -> Result<()> {
        self.call("kv/put", &put(key, value, lease)).map(|_| ())
    }

    /// Sets a key unless it exists. Returns whether it has this value afterwards, so values should be unique.
    ///
    /// # Errors
    /// Failures of the server.
    pub fn create(&self, key: &[u8], value: &[u8], lease: Lease) -> Result<bool> {
        let absent =
            json!({ "key": BASE64.encode(key), "target": "CREATE", "result": "EQUAL", "create_revision": "0" });
        let answer = self.call(
            "kv/txn",
            &json!({
                "compare": [absent],
                "success": [{ "requestPut": put(key, value, lease) }],
                "failure": [{ "requestRange": { "key": BASE64.encode(key) } }],
            }),
        )?;
        if answer["succeeded"] == true {
            return Ok(true);
        }
        // An earlier try of this call may have succeeded although its answer was lost.
        let found = self.pairs(&answer["responses"][0]["response_range"])?;
        Ok(found.first().is_some_and(|(_, found)| found == value))
    }

    /// Creates a lease.
    ///
    /// # Errors
    /// Failures of the server.
    pub fn grant(&self, seconds: u64) -> Result<Lease> {
        let answer = self.call("lease/grant", &json!({ "TTL": seconds }))?;
        let id = answer["ID"].as_str().and_then(|id| id.parse().ok());
        id.map(Lease).ok_or_else(|| self.odd("lease/grant", &answer))
    }

    /// Renews a lease.
    ///
    /// # Errors
    /// Failures of the server.
    pub fn keep_alive(&self, lease: Lease) -> Result<Kept> {
        let answer = self.call("lease/keepalive", &json!({ "ID": lease.0.to_string() }))?;
        let result = &answer["result"];
        if result["TTL"].as_str().is_some_and(|ttl| ttl != "0") {
            return Ok(Kept::Alive);
        }
        let revision = revision(result);
        let before = self.revision.load(Ordering::Relaxed);
        Ok(match revision.is_some_and(|revision| revision < before) {
            true => Kept::Forgotten,
            false => Kept::RanOut,
        })
    }

    /// Revokes a lease and deletes its keys.
    ///
    /// # Errors
    /// Failures of the server.
    pub fn revoke(&self, lease: Lease) -> Result<()> {
        let id = json!({ "ID": lease.0.to_string() });
        self.call("lease/revoke", &id).map(|_| ())
    }

    /// The keys and values of an answer.
    fn pairs(&self, answer: &Value) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let bytes = |text: &Value| BASE64.decode(text.as_str().unwrap_or_default()).ok();
        let pair = |pair: &Value| bytes(&pair["key"]).zip(bytes(&pair["value"]));
        let pairs = answer["kvs"].as_array().into_iter().flatten().map(pair);
        pairs.collect::<Option<_>>().ok_or_else(|| self.odd("kv/range", answer))
    }

    /// Sends a request, repeatedly while the server is unavailable or has no leader.
    fn call(&self, method: &'static str, request: &Value) -> Result<Value> {
        let started = Instant::now();
        loop {
            let error = match self.try_call(method, request) {
                Err(error) if error.is_unavailable() && started.elapsed() < PATIENCE => error,
                done => return done,
            };
            crate::report::detail(|| format!("retrying: {error}"));
            std::thread::sleep(PAUSE);
        }
    }

    fn try_call(&self, method: &'static str, request: &Value) -> Result<Value> {
        let failed = |code, message: String| Error::Store {
            address: self.address.clone(),
            method,
            source: StoreError::new(code, message),
        };
        // Host names are resolved on another thread.
        std::thread::scope(|scope| crate::threads::spawn(scope, "probe", || ()).map(drop)).map_err(Error::Io)?;
        let unreachable = |error: ureq::Error| failed(StoreError::UNAVAILABLE, error.to_string());
        let url = format!("http://{}/v3/{method}", self.address);
        let post = self.agent.post(url).header("content-type", "application/json");
        let mut response = post.send(request.to_string()).map_err(unreachable)?;
        let body = response.body_mut().with_config().limit(MAX_ANSWER_BYTES);
        let text = body.read_to_string().map_err(unreachable)?;
        let status = response.status();
        let Ok(answer) = serde_json::from_str::<Value>(&text) else {
            let message = format!("HTTP status {status}, not etcd's answer: {:.60}", text.trim());
            return Err(failed(StoreError::UNKNOWN, message));
        };
        if status.is_success() {
            let revision = revision(&answer).unwrap_or(0);
            self.revision.fetch_max(revision, Ordering::Relaxed);
            return Ok(answer);
        }
        // The codes are those of gRPC.
        let code = answer["code"].as_u64().and_then(|code| u32::try_from(code).ok());
        let message = answer["message"].as_str().or(answer["error"].as_str());
        let message = message.map_or_else(|| format!("HTTP status {status}"), str::to_owned);
        Err(failed(code.unwrap_or(StoreError::UNKNOWN), message))
    }

    fn odd(&self, method: &'static str, answer: &Value) -> Error {
        Error::Store {
            address: self.address.clone(),
            method,
            source: StoreError::new(StoreError::UNKNOWN, format!("unexpected answer {answer:.100}")),
        }
    }
}

/// The revision of the store in an answer.
fn revision(answer: &Value) -> Option<u64> {
    answer["header"]["revision"].as_str()?.parse().ok()
}

/// A request to set a key.
fn put(key: &[u8], value: &[u8], lease: Lease) -> Value {
    json!({ "key": BASE64.encode(key), "value": BASE64.encode(value), "lease": lease.0.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    #[test]
    fn rejects_invalid_addresses_before_connecting() {
        for given in [
            "",
            "localhost",
            "localhost:port",
            "https://localhost:2379",
            "localhost:70000",
            "host:1/v3",
        ] {
            let error = Etcd::connect(given).map(|_| ()).expect_err(given);
            assert!(matches!(error, Error::Address { .. }), "{given}: {error}");
        }
    }

    #[test]
    fn rejects_servers_other_than_etcd() {
        for (body, expected) in [
            ("hello", "HTTP status 200 OK, not etcd's answer: hello"),
            ("{}", "unexpected answer {}"),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let address = listener.local_addr().expect("an address").to_string();
            std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().expect("a client");
                let _ = stream.read(&mut [0; 4096]);
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                let _ = stream.write_all((head + body).as_bytes());
            });
            let error = Etcd::connect(&address).map(|_| ()).expect_err(body).to_string();
            assert_eq!(error, format!("etcd at {address}, maintenance/status: {expected}"));
        }
    }
}
