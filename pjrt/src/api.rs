//! The function table of one loaded plugin: slot tests, calls, errors, strings, named values and events.

use std::collections::BTreeMap;
use std::ffi::{c_char, c_void};
use std::mem::offset_of;
use std::ptr::null_mut;

use crate::abi::*;
use crate::error::{Error, Result};

/// A struct of the C API that begins with its own size.
///
/// # Safety
/// All-zero bytes must be a value of the type.
pub unsafe trait ApiStruct: Copy {
    /// Bytes up to the end of the last field, as the header defines it (less than `size_of` where padding follows).
    const STRUCT_SIZE: usize;

    /// The field that holds the size.
    fn struct_size_mut(&mut self) -> &mut usize;
}

/// The argument struct of one slot of the table.
///
/// # Safety
/// The slot at `OFFSET` must be a nullable `extern "C"` function from a pointer to this struct to an error or null.
pub unsafe trait Call: ApiStruct {
    /// Name of the slot.
    const NAME: &'static str;
    /// Byte offset of the slot in the table.
    const OFFSET: usize;
}

/// A zeroed struct with its size filled in; use as the base of a struct expression.
pub fn new<A: ApiStruct>() -> A {
    // SAFETY: the trait promises that zero bytes are a value.
    let mut args: A = unsafe { std::mem::zeroed() };
    *args.struct_size_mut() = A::STRUCT_SIZE;
    args
}

/// A plugin's table, read in place: never copied, valid for the life of the process.
#[derive(Clone, Copy)]
pub struct Api {
    table: *const PJRT_Api,
    struct_size: usize,
    version: (i32, i32),
}

// SAFETY: the table is immutable once `GetPjrtApi` returned it and its library is never unloaded; PJRT functions may be
// called from any thread.
unsafe impl Send for Api {}
// SAFETY: as above.
unsafe impl Sync for Api {}

impl Api {
    /// Reads the head of a table; `Err` says what is wrong with it.
    ///
    /// # Safety
    /// `table` must be null or point to a PJRT function table that lives as long as the process.
    pub unsafe fn from_table(table: *const PJRT_Api) -> std::result::Result<Api, String> {
        if table.is_null() {
            return Err("GetPjrtApi returned no table".into());
        }
        // SAFETY: every table begins with its size, whatever its version.
        let struct_size = unsafe { (&raw const (*table).struct_size).read() };
        let head = offset_of!(PJRT_Api, pjrt_api_version) + size_of::<PJRT_Api_Version>();
        if struct_size < head {
            return Err(format!(
                "its function table has {struct_size} bytes, too few for a version ({head})"
            ));
        }
        // SAFETY: the table is at least `head` bytes long.
        let version = unsafe { (&raw const (*table).pjrt_api_version).read() };
        Ok(Api {
            table,
            struct_size,
            version: (version.major_version, version.minor_version),
        })
    }

    /// Version of the C API that the plugin was built with: (major, minor).
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// Bytes in the plugin's table.
    pub fn struct_size(&self) -> usize {
        self.struct_size
    }

    /// The function at a byte offset, or `None` where the table ends before it or holds null.
    ///
    /// # Safety
    /// `F` must be the function type of the slot at `offset`, wrapped in `Option`.
    unsafe fn slot<F: Copy>(&self, offset: usize) -> Option<F> {
        (offset + size_of::<F>() <= self.struct_size).then(|| {
            // SAFETY: the slot lies inside the table, by the test above; tables are pointer-aligned.
            unsafe { self.table.byte_add(offset).cast::<F>().read() }
        })
    }

    /// True when the table holds a function at `offset`.
    pub fn has(&self, offset: usize) -> bool {
        // SAFETY: any slot can be read as a nullable pointer.
        unsafe { self.slot::<*const c_void>(offset) }.is_some_and(|slot| !slot.is_null())
    }

    /// Calls the slot that `args` belongs to; results are in its out fields.
    ///
    /// # Safety
    /// The pointers in `args` must be valid for what the header says of this function.
    pub unsafe fn call<A: Call>(&self, args: &mut A) -> Result<()> {
        type Slot<A> = Option<unsafe extern "C" fn(*mut A) -> *mut PJRT_Error>;
        // SAFETY: the trait promises this function type at this offset.
        let function = unsafe { self.slot::<Slot<A>>(A::OFFSET) }.flatten();
        let function = function.ok_or(Error::Unsupported {
            slot: A::NAME,
            version: self.version,
        })?;
        // SAFETY: the caller vouches for the pointers; the struct carries its size.
        let error = unsafe { function(args) };
        // SAFETY: a returned error is ours to free.
        unsafe { self.check(A::NAME, error) }
    }

    /// Turns a plugin's error into ours and frees it; null is success.
    ///
    /// # Safety
    /// `error` must be null or an error of this plugin that nobody else frees.
    pub unsafe fn check(&self, call: &'static str, error: *mut PJRT_Error) -> Result<()> {
        if error.is_null() {
            return Ok(());
        }
        let mut text = PJRT_Error_Message_Args { error, ..new() };
        let mut code = PJRT_Error_GetCode_Args {
            error,
            code: PJRT_Error_Code_UNKNOWN,
            ..new()
        };
        let mut destroy = PJRT_Error_Destroy_Args { error, ..new() };
        // SAFETY: the types are those of the header's slots; `error` is alive until the last of the three calls, and the
        // text, which belongs to it, is copied before.
        let message = unsafe {
            type Slot<A> = Option<unsafe extern "C" fn(*mut A)>;
            type Coded = Option<unsafe extern "C" fn(*mut PJRT_Error_GetCode_Args) -> *mut PJRT_Error>;
            if let Some(Some(f)) = self.slot::<Slot<_>>(offset_of!(PJRT_Api, PJRT_Error_Message)) {
                f(&mut text);
            }
            if let Some(Some(f)) = self.slot::<Coded>(offset_of!(PJRT_Api, PJRT_Error_GetCode)) {
                f(&mut code);
            }
            let message = string(text.message, text.message_size);
            if let Some(Some(f)) = self.slot::<Slot<_>>(offset_of!(PJRT_Api, PJRT_Error_Destroy)) {
                f(&mut destroy);
            }
            message
        };
        Err(Error::Plugin {
            call,
            code: code.code,
            message,
        })
    }

    /// Numbers of the extensions in the plugin's list.
    pub fn extensions(&self) -> Vec<PJRT_Extension_Type> {
        self.nodes().map(|(_, base)| base.type_).collect()
    }

    /// The extension of this number, if the plugin has it: a struct that begins as this one does, alive as long as the table.
    pub fn extension(&self, number: PJRT_Extension_Type) -> Option<*const PJRT_Extension_Base> {
        let mut nodes = self.nodes();
        nodes.find(|(_, base)| base.type_ == number).map(|(node, _)| node)
    }

    fn nodes(&self) -> impl Iterator<Item = (*const PJRT_Extension_Base, PJRT_Extension_Base)> {
        // SAFETY: the head of the table is readable (see `from_table`).
        let first = unsafe { (&raw const (*self.table).extension_start).read() };
        let read = |node: *mut PJRT_Extension_Base| {
            // SAFETY: a linked list of structs that begin with this base, alive as long as the table.
            (!node.is_null()).then(|| (node.cast_const(), unsafe { node.read() }))
        };
        std::iter::successors(read(first), move |(_, base)| read(base.next))
    }
}

/// Copies a pointer-and-length string; invalid UTF-8 is replaced.
///
/// # Safety
/// `data` must be null or point to `size` readable bytes.
pub unsafe fn string(data: *const c_char, size: usize) -> String {
    // SAFETY: as the caller says.
    String::from_utf8_lossy(unsafe { bytes(data, size) }).into_owned()
}

/// Borrows a pointer-and-length byte string, which may be null.
///
/// # Safety
/// `data` must be null or point to `size` bytes that stay readable and unchanged for `'a`.
pub unsafe fn bytes<'a>(data: *const c_char, size: usize) -> &'a [u8] {
    if data.is_null() {
        return &[];
    }
    // SAFETY: as the caller says; u8 has no alignment.
    unsafe { std::slice::from_raw_parts(data.cast(), size) }
}

/// A named option or attribute: what PJRT calls a named value.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(untagged)]
pub enum OptionValue {
    /// Text.
    Str(String),
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A single-precision number.
    Float(f32),
    /// Several whole numbers.
    IntList(Vec<i64>),
}

impl OptionValue {
    /// A number of either kind.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            OptionValue::Float(value) => Some(f64::from(*value)),
            OptionValue::Int(value) => Some(*value as f64),
            _ => None,
        }
    }
}

impl std::fmt::Display for OptionValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OptionValue::Str(v) => f.write_str(v),
            OptionValue::Bool(v) => write!(f, "{v}"),
            OptionValue::Int(v) => write!(f, "{v}"),
            OptionValue::Float(v) => write!(f, "{v}"),
            OptionValue::IntList(v) => {
                let parts: Vec<String> = v.iter().map(i64::to_string).collect();
                f.write_str(&parts.join("."))
            }
        }
    }
}

/// Borrows `options` as the C API's array; valid while `options` is.
pub fn named_values(options: &BTreeMap<String, OptionValue>) -> Vec<PJRT_NamedValue> {
    let convert = |(name, value): (&String, &OptionValue)| {
        let (kind, value, value_size) = match value {
            OptionValue::Str(v) => {
                let text = PJRT_NamedValue_value {
                    string_value: v.as_ptr().cast(),
                };
                (PJRT_NamedValue_kString, text, v.len())
            }
            OptionValue::Bool(v) => (PJRT_NamedValue_kBool, PJRT_NamedValue_value { bool_value: *v }, 1),
            OptionValue::Int(v) => (PJRT_NamedValue_kInt64, PJRT_NamedValue_value { int64_value: *v }, 1),
            OptionValue::Float(v) => (PJRT_NamedValue_kFloat, PJRT_NamedValue_value { float_value: *v }, 1),
            OptionValue::IntList(v) => {
                let list = PJRT_NamedValue_value {
                    int64_array_value: v.as_ptr(),
                };
                (PJRT_NamedValue_kInt64List, list, v.len())
            }
        };
        PJRT_NamedValue {
            name: name.as_ptr().cast(),
            name_size: name.len(),
            type_: kind,
            value,
            value_size,
            ..new()
        }
    };
    options.iter().map(convert).collect()
}

/// Copies an array of named values. Each element says its own size, which is the array's stride: newer plugins may have
/// longer elements than this header.
///
/// # Safety
/// `data` must be null or point to `count` named values of the plugin.
pub unsafe fn read_named_values(data: *const PJRT_NamedValue, count: usize) -> BTreeMap<String, OptionValue> {
    let mut found = BTreeMap::new();
    if data.is_null() || count == 0 {
        return found;
    }
    // SAFETY: there is a first element and it begins with its size.
    let stride = unsafe { (&raw const (*data).struct_size).read() }.next_multiple_of(align_of::<PJRT_NamedValue>());
    if stride < PJRT_NamedValue::STRUCT_SIZE {
        return found;
    }
    for i in 0..count {
        // SAFETY: element `i` of the array, at least as long as this header's struct; the union is read as its tag says.
        unsafe {
            let item = data.byte_add(i * stride).read();
            let value = match item.type_ {
                PJRT_NamedValue_kString => OptionValue::Str(string(item.value.string_value, item.value_size)),
                PJRT_NamedValue_kInt64 => OptionValue::Int(item.value.int64_value),
                PJRT_NamedValue_kInt64List if !item.value.int64_array_value.is_null() => {
                    let list = std::slice::from_raw_parts(item.value.int64_array_value, item.value_size);
                    OptionValue::IntList(list.to_vec())
                }
                PJRT_NamedValue_kFloat => OptionValue::Float(item.value.float_value),
                PJRT_NamedValue_kBool => OptionValue::Bool(item.value.bool_value),
                _ => continue,
            };
            found.insert(string(item.name, item.name_size), value);
        }
    }
    found
}

/// A pending result of the plugin; destroyed on drop.
pub struct Event {
    api: Api,
    raw: *mut PJRT_Event,
}

// SAFETY: PJRT events may be awaited and destroyed from any thread.
unsafe impl Send for Event {}
// SAFETY: waiting and asking do not change the event.
unsafe impl Sync for Event {}

impl Event {
    /// Takes over an event; null (which some calls return when nothing is pending) is ready at once.
    ///
    /// # Safety
    /// `raw` must be null or an event of this plugin that nobody else destroys.
    pub unsafe fn from_raw(api: Api, raw: *mut PJRT_Event) -> Event {
        Event { api, raw }
    }

    /// Blocks until the event is ready and returns its error, if it carries one.
    pub fn wait(&self) -> Result<()> {
        if self.raw.is_null() {
            return Ok(());
        }
        // SAFETY: the event is alive until drop.
        unsafe {
            self.api.call(&mut PJRT_Event_Await_Args {
                event: self.raw,
                ..new()
            })
        }
    }

    /// True when `wait` would not block.
    pub fn is_ready(&self) -> Result<bool> {
        if self.raw.is_null() {
            return Ok(true);
        }
        let mut args = PJRT_Event_IsReady_Args {
            event: self.raw,
            ..new()
        };
        // SAFETY: the event is alive until drop.
        unsafe { self.api.call(&mut args)? };
        Ok(args.is_ready)
    }

    /// Keeps `guard` alive until the event is ready, without blocking. The event's error, if any, also reaches whoever
    /// waits for the buffer that it belongs to.
    pub fn hold<G: Send + 'static>(self, guard: G) -> Result<()> {
        if self.raw.is_null() {
            return Ok(());
        }
        let raw = self.raw;
        let held = Box::into_raw(Box::new((self, guard)));
        let mut args = PJRT_Event_OnReady_Args {
            event: raw,
            callback: Some(release::<G>),
            user_arg: held.cast(),
            ..new()
        };
        // SAFETY: the event lives inside `held`, which the callback frees; `release::<G>` has the callback's type.
        let registered = unsafe {
            // SAFETY: `held` is still ours here: the callback has not been registered yet.
            let api = (*held).0.api;
            api.call(&mut args)
        };
        if registered.is_err() {
            // SAFETY: the callback was not registered, so the box is still ours.
            let (event, _guard) = *unsafe { Box::from_raw(held) };
            return event.wait();
        }
        Ok(())
    }
}

/// Callback of `Event::hold`: frees the event's error, the event and the guard.
unsafe extern "C" fn release<G>(error: *mut PJRT_Error, user_arg: *mut c_void) {
    // SAFETY: `user_arg` is the box that `hold` leaked, and PJRT calls back exactly once.
    let held = unsafe { Box::from_raw(user_arg.cast::<(Event, G)>()) };
    // SAFETY: the callback owns `error`.
    let _ = unsafe { held.0.api.check("PJRT_Event_OnReady", error) };
}

impl Drop for Event {
    fn drop(&mut self) {
        if !self.raw.is_null() {
            // SAFETY: ours to destroy, once. A failure to destroy has no remedy.
            let _ = unsafe {
                self.api.call(&mut PJRT_Event_Destroy_Args {
                    event: self.raw,
                    ..new()
                })
            };
            self.raw = null_mut();
        }
    }
}
