//! Calls of host functions by compiled programs: XLA's foreign function interface, version 0, through the FFI extension of the C
//! API. The package that `abi.rs` is generated from lacks their headers, so their few structs are defined here.

use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr::null_mut;

use crate::abi::{PJRT_Error, PJRT_Extension_Base, PJRT_Extension_Type_FFI};
use crate::api::Api;
use crate::error::Result;

/// A host function; returns null on success.
pub type Handler = unsafe extern "C" fn(*mut CallFrame) -> *mut c_void;

/// XLA's name of the host platform.
const HOST: &str = "Host";

// Numbers of the interface's enumerations.
const METADATA: c_int = 1;
const BUFFER: c_int = 1;
const ARRAY: c_int = 1;
const PRED: c_int = 1;
const S32: c_int = 4;
const S64: c_int = 5;
const U8: c_int = 6;
const U32: c_int = 8;
const F32: c_int = 11;
const EXECUTE: c_int = 3;
const INTERNAL: c_int = 13;

/// `PJRT_FFI_Extension`.
#[repr(C)]
struct Extension {
    base: PJRT_Extension_Base,
    type_register: *const c_void,
    user_data_add: *const c_void,
    register_handler: Option<unsafe extern "C" fn(*mut RegisterArgs) -> *mut PJRT_Error>,
}

/// `PJRT_FFI_Register_Handler_Args`.
#[repr(C)]
struct RegisterArgs {
    struct_size: usize,
    target_name: *const c_char,
    target_name_size: usize,
    handler: *mut c_void,
    platform_name: *const c_char,
    platform_name_size: usize,
    traits: c_int,
}

/// `XLA_FFI_Extension_Base`.
#[repr(C)]
struct Base {
    struct_size: usize,
    type_: c_int,
    next: *mut Base,
}

/// `XLA_FFI_Api_Version`.
#[repr(C)]
struct Version {
    struct_size: usize,
    extension_start: *mut Base,
    major: c_int,
    minor: c_int,
}

/// The head of `XLA_FFI_Api`.
#[repr(C)]
struct Functions {
    struct_size: usize,
    extension_start: *mut Base,
    version: Version,
    internal: *const c_void,
    error_create: Option<unsafe extern "C" fn(*mut ErrorArgs) -> *mut c_void>,
}

/// `XLA_FFI_Api` up to the function that schedules tasks.
#[repr(C)]
struct MoreFunctions {
    head: Functions,
    error_message: *const c_void,
    error_destroy: Option<unsafe extern "C" fn(*mut ErrorDestroyArgs)>,
    others: [*const c_void; 8],
    schedule: Option<unsafe extern "C" fn(*mut ScheduleArgs) -> *mut c_void>,
}

/// `XLA_FFI_Error_Destroy_Args`.
#[repr(C)]
struct ErrorDestroyArgs {
    struct_size: usize,
    extension_start: *mut Base,
    error: *mut c_void,
}

/// `XLA_FFI_ThreadPool_Schedule_Args`.
#[repr(C)]
struct ScheduleArgs {
    struct_size: usize,
    extension_start: *mut Base,
    context: *mut c_void,
    task: unsafe extern "C" fn(*mut c_void),
    data: *mut c_void,
}

/// `XLA_FFI_Error_Create_Args`.
#[repr(C)]
struct ErrorArgs {
    struct_size: usize,
    extension_start: *mut Base,
    message: *const c_char,
    code: c_int,
}

/// The head of `XLA_FFI_Metadata`.
#[repr(C)]
struct Metadata {
    struct_size: usize,
    version: Version,
    traits: u32,
}

/// `XLA_FFI_Metadata_Extension`.
#[repr(C)]
struct MetadataExtension {
    base: Base,
    metadata: *mut Metadata,
}

/// `XLA_FFI_Args` and `XLA_FFI_Rets`.
#[repr(C)]
struct Values {
    struct_size: usize,
    extension_start: *mut Base,
    count: i64,
    types: *const c_int,
    values: *const *const Array,
}

/// `XLA_FFI_Attrs`.
#[repr(C)]
struct Attributes {
    struct_size: usize,
    extension_start: *mut Base,
    count: i64,
    types: *const c_int,
    names: *const *const Span,
    values: *const *const Numbers,
}

/// `XLA_FFI_ByteSpan`.
#[repr(C)]
struct Span {
    data: *const u8,
    len: usize,
}

/// `XLA_FFI_Array`.
#[repr(C)]
struct Numbers {
    dtype: c_int,
    len: usize,
    data: *const i64,
}

/// `XLA_FFI_Buffer`.
#[repr(C)]
struct Array {
    struct_size: usize,
    extension_start: *mut Base,
    dtype: c_int,
    data: *mut c_void,
    rank: i64,
    dims: *const i64,
}

/// `XLA_FFI_CallFrame` up to the attributes.
#[repr(C)]
pub struct CallFrame {
    struct_size: usize,
    extension_start: *mut Base,
    api: *const Functions,
    context: *mut c_void,
    stage: c_int,
    args: Values,
    rets: Values,
    attributes: Attributes,
}

/// A call of a host function.
pub struct Call<'a>(&'a CallFrame);

/// An element type.
pub trait Element: Copy {
    /// XLA's number for it.
    const TYPE: c_int;
}

impl Element for f32 {
    const TYPE: c_int = F32;
}

impl Element for u32 {
    const TYPE: c_int = U32;
}

impl Element for i32 {
    const TYPE: c_int = S32;
}

/// A `u8`; the bytes of [`u8`] itself are those of `pred`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Byte(pub u8);

impl Element for Byte {
    const TYPE: c_int = U8;
}

/// `pred`: a byte each, 0 or 1.
impl Element for u8 {
    const TYPE: c_int = PRED;
}

impl Call<'_> {
    /// The elements of argument `index`, an array of `f32`, in the layout of the call.
    pub fn argument(&self, index: usize) -> Option<&[f32]> {
        self.argument_of(index)
    }

    /// The elements of argument `index`, an array of `T`, in the layout of the call.
    pub fn argument_of<T: Element>(&self, index: usize) -> Option<&[T]> {
        let (data, len) = array(&self.0.args, index)?;
        // SAFETY: an argument's elements are not written during the call.
        Some(unsafe { std::slice::from_raw_parts(data, len) })
    }

    /// Pointer to the elements of result `index`, an array of `f32`, and their number.
    pub fn result(&self, index: usize) -> Option<(*mut f32, usize)> {
        array(&self.0.rets, index)
    }

    /// Runs `write` on the elements of result `index`, an array of `T`; `None` if it does not exist.
    pub fn write<T: Element, R>(&self, index: usize, write: impl FnOnce(&mut [T]) -> R) -> Option<R> {
        let (data, len) = array(&self.0.rets, index)?;
        // SAFETY: a result's elements are this call's alone, and any bytes are numbers. `write` cannot keep them.
        Some(write(unsafe { std::slice::from_raw_parts_mut(data, len) }))
    }

    /// Dimensions of argument `index`.
    pub fn argument_dims<const RANK: usize>(&self, index: usize) -> Option<[usize; RANK]> {
        dims(&self.0.args, index)
    }

    /// Dimensions of result `index`.
    pub fn result_dims<const RANK: usize>(&self, index: usize) -> Option<[usize; RANK]> {
        dims(&self.0.rets, index)
    }

    /// The attribute with this name, an array of integers.
    pub fn numbers(&self, name: &str) -> Option<Vec<i64>> {
        let attributes = &self.0.attributes;
        let count = usize::try_from(attributes.count).ok()?;
        (0..count).find_map(|i| {
            // SAFETY: the three lists have `count` entries; a name is a span of bytes, and a value of this type that array.
            unsafe {
                let Span { data, len } = **attributes.names.add(i);
                if std::slice::from_raw_parts(data, len) != name.as_bytes() || *attributes.types.add(i) != ARRAY {
                    return None;
                }
                let Numbers { dtype, len, data } = **attributes.values.add(i);
                match (dtype, len) {
                    (S64, 0) => Some(vec![]),
                    (S64, _) => Some(std::slice::from_raw_parts(data, len).to_vec()),
                    _ => None,
                }
            }
        })
    }

    /// Schedules `task` with `data` on the threads of the calling program; may run it at once. Returns false if it will not run.
    ///
    /// # Safety
    /// `data` must be what `task` takes, at any time and on any thread.
    pub unsafe fn schedule(&self, task: unsafe extern "C" fn(*mut c_void), data: *mut c_void) -> bool {
        let CallFrame { api, context, .. } = *self.0;
        // SAFETY: the functions live as long as the plugin, and are as many as their size says.
        let more = unsafe {
            let whole = (*api).struct_size >= size_of::<MoreFunctions>();
            whole.then(|| &*api.cast::<MoreFunctions>())
        };
        let Some((schedule, destroy)) = more.and_then(|more| more.schedule.zip(more.error_destroy)) else {
            return false;
        };
        let mut args = ScheduleArgs {
            struct_size: size_of::<ScheduleArgs>(),
            extension_start: null_mut(),
            context,
            task,
            data,
        };
        // SAFETY: the context is this call's; the caller answers for the task.
        let error = unsafe { schedule(&raw mut args) };
        if error.is_null() {
            return true;
        }
        let mut args = ErrorDestroyArgs {
            struct_size: size_of::<ErrorDestroyArgs>(),
            extension_start: null_mut(),
            error,
        };
        // SAFETY: last use of the error.
        unsafe { destroy(&raw mut args) };
        false
    }
}

/// A buffer, and its dimensions.
fn buffer(values: &Values, index: usize) -> Option<(&Array, &[i64])> {
    let count = usize::try_from(values.count).ok()?;
    if index >= count {
        return None;
    }
    // SAFETY: there are `count` values, each of its type; a buffer has `rank` dimensions.
    unsafe {
        if *values.types.add(index) != BUFFER {
            return None;
        }
        let array = &**values.values.add(index);
        let dims = match usize::try_from(array.rank).ok()? {
            0 => &[],
            rank => std::slice::from_raw_parts(array.dims, rank),
        };
        Some((array, dims))
    }
}

/// Dimensions of a buffer of this rank.
fn dims<const RANK: usize>(values: &Values, index: usize) -> Option<[usize; RANK]> {
    let (_, dims) = buffer(values, index)?;
    let dims: [i64; RANK] = dims.try_into().ok()?;
    Some(dims.map(|dim| usize::try_from(dim).unwrap_or(0)))
}

/// Pointer to the elements of an array of `T`, and their number.
fn array<T: Element>(values: &Values, index: usize) -> Option<(*mut T, usize)> {
    let (array, dims) = buffer(values, index)?;
    let len = usize::try_from(dims.iter().product::<i64>()).ok()?;
    (array.dtype == T::TYPE && !array.data.is_null()).then_some((array.data.cast(), len))
}

/// Body of a [`Handler`]: answers metadata queries, runs `work` for calls.
///
/// # Safety
/// `frame` must be what XLA called the handler with.
pub unsafe fn handle(frame: *mut CallFrame, work: fn(&Call<'_>) -> std::result::Result<(), String>) -> *mut c_void {
    // SAFETY: XLA calls with a frame, whose functions live as long as the plugin.
    let (frame, functions) = unsafe { (&*frame, &*(*frame).api) };
    // SAFETY: a null or valid extension; one of this type is that struct, and its version is to be filled in.
    unsafe {
        if let Some(base) = frame.extension_start.as_ref().filter(|base| base.type_ == METADATA) {
            let metadata = (&raw const *base).cast::<MetadataExtension>().read().metadata;
            (*metadata).version.major = functions.version.major;
            (*metadata).version.minor = functions.version.minor;
            return null_mut();
        }
    }
    let known = frame.struct_size >= size_of::<CallFrame>() && frame.args.struct_size == size_of::<Values>();
    let done = match known {
        false => Err("the plugin's call frame has another layout".to_owned()),
        true if frame.stage != EXECUTE => Ok(()),
        // A panic must not run into foreign frames.
        true => std::panic::catch_unwind(|| work(&Call(frame))).unwrap_or_else(|_| Err("it panicked".into())),
    };
    let (Err(why), Some(create)) = (done, functions.error_create) else {
        return null_mut();
    };
    let message = CString::new(why).unwrap_or_default();
    let mut args = ErrorArgs {
        struct_size: size_of::<ErrorArgs>(),
        extension_start: null_mut(),
        message: message.as_ptr(),
        code: INTERNAL,
    };
    // SAFETY: the message is copied; the error is XLA's once returned.
    unsafe { create(&raw mut args) }
}

/// Registers a function for programs compiled for the host's processor. Returns false if the plugin has no interface for it.
///
/// # Errors
/// If the plugin refuses the function.
pub fn register(api: &Api, name: &str, handler: Handler) -> Result<bool> {
    let Some(node) = api.extension(PJRT_Extension_Type_FFI) else {
        return Ok(false);
    };
    // SAFETY: a node of this type is that struct as far as its size says, and lives as long as the plugin.
    let register = unsafe {
        let whole = (*node).struct_size >= size_of::<Extension>();
        whole.then(|| (*node.cast::<Extension>()).register_handler).flatten()
    };
    let Some(register) = register else { return Ok(false) };
    let mut args = RegisterArgs {
        struct_size: size_of::<RegisterArgs>(),
        target_name: name.as_ptr().cast(),
        target_name_size: name.len(),
        handler: handler as *mut c_void,
        platform_name: HOST.as_ptr().cast(),
        platform_name_size: HOST.len(),
        traits: 0,
    };
    // SAFETY: names are copied, the function lives as long as this program; a returned error is ours.
    unsafe {
        api.check("PJRT_FFI_Register_Handler", register(&raw mut args))
            .map(|()| true)
    }
}
