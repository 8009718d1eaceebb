//! Connects a plugin's key-value callbacks to a store, through which the clients of several processes find each other.

use std::ffi::{c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::abort;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use crate::abi::*;
use crate::api::{ApiStruct, bytes};

/// A store that all processes share. Keys are arbitrary bytes and are put once.
pub trait KeyValueStore: Send + Sync {
    /// Waits for the value of a key.
    ///
    /// # Errors
    /// [`StoreError::DEADLINE_EXCEEDED`] after `timeout`, and failures of the store.
    fn get(&self, key: &[u8], timeout: Duration) -> Result<Vec<u8>, StoreError>;

    /// The value of a key, if it has one.
    ///
    /// # Errors
    /// Failures of the store.
    fn try_get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Sets the value of a key.
    ///
    /// # Errors
    /// Failures of the store.
    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError>;
}

/// A failure of a store, for the plugin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StoreError {
    /// `PJRT_Error_Code`, as in gRPC.
    pub code: u32,
    /// The message.
    pub message: String,
}

impl StoreError {
    /// The timeout has passed.
    pub const DEADLINE_EXCEEDED: u32 = PJRT_Error_Code_DEADLINE_EXCEEDED;
    /// The key does not exist.
    pub const NOT_FOUND: u32 = PJRT_Error_Code_NOT_FOUND;
    /// The store cannot be reached.
    pub const UNAVAILABLE: u32 = PJRT_Error_Code_UNAVAILABLE;
    /// Any other failure.
    pub const UNKNOWN: u32 = PJRT_Error_Code_UNKNOWN;

    /// An error of this code.
    pub fn new(code: u32, message: impl Into<String>) -> Self {
        StoreError {
            code,
            message: message.into(),
        }
    }
}

type Shared = Arc<dyn KeyValueStore>;

/// A store for a client. Must outlive the client.
pub(super) struct Bridge(Arc<Shared>);

impl Bridge {
    pub(super) fn new(store: Shared) -> Self {
        Bridge(Arc::new(store))
    }

    /// Sets the callbacks, which refer to this bridge.
    pub(super) fn install(&self, args: &mut PJRT_Client_Create_Args) {
        let user_arg: *mut c_void = Arc::as_ptr(&self.0).cast_mut().cast();
        args.kv_get_callback = Some(get);
        args.kv_get_user_arg = user_arg;
        args.kv_try_get_callback = Some(try_get);
        args.kv_try_get_user_arg = user_arg;
        args.kv_put_callback = Some(put);
        args.kv_put_user_arg = user_arg;
    }
}

/// Blocks until the key has a value or the plugin's timeout has passed.
unsafe extern "C" fn get(args: *mut PJRT_KeyValueGetCallback_Args) -> *mut PJRT_Error {
    // SAFETY: the plugin passes its own struct, readable up to the size that it says, and nobody else's for the call.
    let args = unsafe { &mut *args };
    // SAFETY: the key has this length, and `user_arg` is the store of a bridge that outlives the client.
    let (key, store) = unsafe { (bytes(args.key, args.key_size), &*args.user_arg.cast::<Shared>()) };
    let timeout = Duration::from_millis(u64::try_from(args.timeout_in_ms).unwrap_or(0));
    let found = guarded(args.struct_size, PJRT_KeyValueGetCallback_Args::STRUCT_SIZE, || {
        store.get(key, timeout)
    });
    let lent = |value, size| {
        (args.value, args.value_size) = (value, size);
        args.value_deleter_callback = Some(take_back);
    };
    // SAFETY: the plugin's own function.
    unsafe { answer(found, args.callback_error, lent) }
}

/// As [`get`], but a key without a value is an error at once.
unsafe extern "C" fn try_get(args: *mut PJRT_KeyValueTryGetCallback_Args) -> *mut PJRT_Error {
    // SAFETY: as in `get`.
    let args = unsafe { &mut *args };
    // SAFETY: as in `get`.
    let (key, store) = unsafe { (bytes(args.key, args.key_size), &*args.user_arg.cast::<Shared>()) };
    let found = guarded(args.struct_size, PJRT_KeyValueTryGetCallback_Args::STRUCT_SIZE, || {
        let missing = || StoreError::new(StoreError::NOT_FOUND, format!("no key {}", key.escape_ascii()));
        store.try_get(key)?.ok_or_else(missing)
    });
    let lent = |value, size| {
        (args.value, args.value_size) = (value, size);
        args.value_deleter_callback = Some(take_back);
    };
    // SAFETY: the plugin's own function.
    unsafe { answer(found, args.callback_error, lent) }
}

unsafe extern "C" fn put(args: *mut PJRT_KeyValuePutCallback_Args) -> *mut PJRT_Error {
    // SAFETY: as in `get`; nothing is written to the struct.
    let args = unsafe { &*args };
    // SAFETY: as in `get`; the value has its length too, and is copied within the call.
    let (key, value, store) = unsafe {
        let value = bytes(args.value, args.value_size);
        (bytes(args.key, args.key_size), value, &*args.user_arg.cast::<Shared>())
    };
    let done = guarded(args.struct_size, PJRT_KeyValuePutCallback_Args::STRUCT_SIZE, || {
        store.put(key, value)
    });
    // SAFETY: the plugin's own function.
    done.map_or_else(
        |error| unsafe { refuse(args.callback_error, &error) },
        |()| ptr::null_mut(),
    )
}

/// Runs `work` on arguments of `found` bytes; catches panics.
fn guarded<T>(found: usize, expected: usize, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    if found < expected {
        let message = format!("the callback's arguments have {found} bytes, expected at least {expected}");
        return Err(StoreError::new(PJRT_Error_Code_FAILED_PRECONDITION, message));
    }
    let panicked = |_| {
        let message = "the key-value store panicked";
        Err(StoreError::new(PJRT_Error_Code_INTERNAL, message))
    };
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(panicked)
}

/// Lends the plugin the value through `lent`, or reports the error.
///
/// # Safety
/// As [`refuse`].
unsafe fn answer(
    found: Result<Vec<u8>, StoreError>,
    callback: *mut PJRT_CallbackError,
    lent: impl FnOnce(*mut c_char, usize),
) -> *mut PJRT_Error {
    match found {
        Ok(value) => {
            lent(lend(&value), value.len());
            ptr::null_mut()
        }
        // SAFETY: as the caller says.
        Err(error) => unsafe { refuse(callback, &error) },
    }
}

/// Converts an error to the plugin's. If the plugin provides no function for that it would read a missing value, so this aborts.
///
/// # Safety
/// `callback` must be null or point to the plugin's function.
unsafe fn refuse(callback: *mut PJRT_CallbackError, error: &StoreError) -> *mut PJRT_Error {
    // SAFETY: as the caller says.
    let Some(make) = (unsafe { callback.as_ref() }).copied().flatten() else {
        abort();
    };
    // SAFETY: the message has the length given, and the plugin copies it.
    unsafe { make(error.code, error.message.as_ptr().cast(), error.message.len()) }
}

/// Size of the header before a lent value. It stores the length, which the deleter does not get.
const HEAD: usize = size_of::<usize>();

/// Copies `value` for the plugin, which returns it to [`take_back`].
fn lend(value: &[u8]) -> *mut c_char {
    let copy: Box<[u8]> = [&value.len().to_ne_bytes(), value].concat().into_boxed_slice();
    Box::into_raw(copy).cast::<c_char>().wrapping_add(HEAD)
}

/// Frees a lent value; null is none.
unsafe extern "C" fn take_back(value: *mut c_char) {
    if value.is_null() {
        return;
    }
    // SAFETY: the plugin returns what `lend` gave it, once: a box of `HEAD` bytes with a length and as many bytes more.
    unsafe {
        let start = value.cast::<u8>().sub(HEAD);
        let length = usize::from_ne_bytes(start.cast::<[u8; HEAD]>().read());
        drop(Box::from_raw(ptr::slice_from_raw_parts_mut(start, HEAD + length)));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::api::new;
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    /// A store in memory that panics at keys beginning with `!`.
    #[derive(Default)]
    struct Memory(Mutex<BTreeMap<Vec<u8>, Vec<u8>>>);

    impl KeyValueStore for Memory {
        fn get(&self, key: &[u8], timeout: Duration) -> Result<Vec<u8>, StoreError> {
            let late = || StoreError::new(StoreError::DEADLINE_EXCEEDED, format!("after {timeout:?}"));
            self.try_get(key)?.ok_or_else(late)
        }

        fn try_get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
            assert!(!key.starts_with(b"!"), "as asked");
            Ok(self.0.lock().unwrap().get(key).cloned())
        }

        fn put(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
            self.0.lock().unwrap().insert(key.into(), value.into());
            Ok(())
        }
    }

    /// The error type of the test's plugin: code and text.
    unsafe extern "C" fn error(code: PJRT_Error_Code, text: *const c_char, size: usize) -> *mut PJRT_Error {
        // SAFETY: the bridge passes a text and its length.
        let text = unsafe { crate::api::string(text, size) };
        Box::into_raw(Box::new((code, text))).cast()
    }

    /// # Safety
    /// `raw` must be null or come from [`error`].
    unsafe fn take_error(raw: *mut PJRT_Error) -> Option<(PJRT_Error_Code, String)> {
        // SAFETY: as the caller says.
        (!raw.is_null()).then(|| *unsafe { Box::from_raw(raw.cast::<(PJRT_Error_Code, String)>()) })
    }

    type Answer = Result<Vec<u8>, (PJRT_Error_Code, String)>;

    /// Calls the callbacks like a plugin.
    struct Caller {
        args: PJRT_Client_Create_Args,
        error: PJRT_CallbackError,
        _bridge: Bridge,
    }

    impl Caller {
        fn new() -> Self {
            let bridge = Bridge::new(Arc::new(Memory::default()));
            let mut args = new();
            bridge.install(&mut args);
            Caller {
                args,
                error: Some(error),
                _bridge: bridge,
            }
        }

        fn put(&mut self, key: &[u8], value: &[u8]) -> Option<(PJRT_Error_Code, String)> {
            let mut args = PJRT_KeyValuePutCallback_Args {
                key: key.as_ptr().cast(),
                key_size: key.len(),
                value: value.as_ptr().cast(),
                value_size: value.len(),
                callback_error: &mut self.error,
                user_arg: self.args.kv_put_user_arg,
                ..new()
            };
            // SAFETY: pointers and lengths are those of living slices, and the bridge is alive.
            unsafe { take_error(self.args.kv_put_callback.unwrap()(&mut args)) }
        }

        fn get(&mut self, key: &[u8], timeout_in_ms: i32, struct_size: usize) -> Answer {
            let mut args = PJRT_KeyValueGetCallback_Args {
                struct_size,
                key: key.as_ptr().cast(),
                key_size: key.len(),
                timeout_in_ms,
                callback_error: &mut self.error,
                user_arg: self.args.kv_get_user_arg,
                ..new()
            };
            // SAFETY: as in `put`; the value is copied before it is given back.
            unsafe {
                match take_error(self.args.kv_get_callback.unwrap()(&mut args)) {
                    Some(error) => Err(error),
                    None => Ok(copied(args.value, args.value_size, args.value_deleter_callback)),
                }
            }
        }

        fn try_get(&mut self, key: &[u8]) -> Answer {
            let mut args = PJRT_KeyValueTryGetCallback_Args {
                key: key.as_ptr().cast(),
                key_size: key.len(),
                callback_error: &mut self.error,
                user_arg: self.args.kv_try_get_user_arg,
                ..new()
            };
            // SAFETY: as in `get`.
            unsafe {
                match take_error(self.args.kv_try_get_callback.unwrap()(&mut args)) {
                    Some(error) => Err(error),
                    None => Ok(copied(args.value, args.value_size, args.value_deleter_callback)),
                }
            }
        }
    }

    /// # Safety
    /// The value must be one that a callback has just lent.
    unsafe fn copied(value: *mut c_char, size: usize, delete: PJRT_KeyValueGetCallback_ValueDeleter) -> Vec<u8> {
        // SAFETY: as the caller says.
        unsafe {
            let copy = bytes(value, size).to_vec();
            delete.unwrap()(value);
            copy
        }
    }

    const WHOLE: usize = PJRT_KeyValueGetCallback_Args::STRUCT_SIZE;

    #[test]
    fn values_survive_a_round_trip() {
        let mut caller = Caller::new();
        let large: Vec<u8> = (0..1_000_000).map(|i| (i % 251) as u8).collect();
        for (key, value) in [(&b"a"[..], &b"\0x\0"[..]), (b"\0\xff", b""), (b"", &large)] {
            assert_eq!(caller.put(key, value), None);
            assert_eq!(caller.get(key, 0, WHOLE).unwrap(), value);
            assert_eq!(caller.try_get(key).unwrap(), value);
        }
    }

    #[test]
    fn failures_have_the_expected_codes() {
        let mut caller = Caller::new();
        let code = |answer: Answer| answer.unwrap_err().0;
        let (missing, text) = caller.try_get(b"node\x01").unwrap_err();
        assert_eq!(
            (missing, text.as_str()),
            (PJRT_Error_Code_NOT_FOUND, "no key node\\x01")
        );
        let late = caller.get(b"x", 250, WHOLE).unwrap_err();
        assert_eq!(late, (PJRT_Error_Code_DEADLINE_EXCEEDED, "after 250ms".into()));
        assert_eq!(caller.get(b"x", -1, WHOLE).unwrap_err().1, "after 0ns");
        assert_eq!(code(caller.get(b"!", 1, WHOLE)), PJRT_Error_Code_INTERNAL);
        assert_eq!(code(caller.try_get(b"!")), PJRT_Error_Code_INTERNAL);
        assert_eq!(
            code(caller.get(b"x", 1, WHOLE - 8)),
            PJRT_Error_Code_FAILED_PRECONDITION
        );
    }
}
