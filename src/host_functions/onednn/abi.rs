//! The part of oneDNN's C interface, version 3, that is used here. The library's package has no header.

use std::ffi::{c_int, c_uint, c_void};

use libloading::os::unix::Library;

/// `dnnl_status_t`: 0 is success.
pub(super) type Status = c_int;
/// Any object of the library.
pub(super) type Object = *mut c_void;
/// `dnnl_dims_t`.
pub(super) type Dims = [i64; 12];

// Numbers of the library's enumerations.
pub(super) const CPU: c_int = 1;
pub(super) const IN_ORDER: c_uint = 1;
pub(super) const F32: c_int = 3;
pub(super) const ANY_FORMAT: c_int = 1;
pub(super) const FORWARD_TRAINING: c_int = 64;
pub(super) const DIRECT: c_int = 1;
pub(super) const SCRATCHPAD_BY_USER: c_int = 1;
pub(super) const QUERY_WEIGHTS: c_int = 131;
pub(super) const QUERY_DIFF_WEIGHTS: c_int = 132;
pub(super) const QUERY_SCRATCHPAD: c_int = 136;
pub(super) const SRC: c_int = 1;
pub(super) const DST: c_int = 17;
pub(super) const WEIGHTS: c_int = 33;
pub(super) const SCRATCHPAD: c_int = 80;
pub(super) const DIFF_SRC: c_int = 129;
pub(super) const DIFF_DST: c_int = 145;
pub(super) const DIFF_WEIGHTS: c_int = 161;

/// `dnnl_exec_arg_t`.
#[repr(C)]
pub(super) struct Argument {
    pub(super) role: c_int,
    pub(super) memory: Object,
}

/// `dnnl_version_t`, its head.
#[repr(C)]
pub(super) struct Version {
    pub(super) major: c_int,
    pub(super) minor: c_int,
    pub(super) patch: c_int,
}

/// Declares the functions that are taken from the library, and how they are looked up.
macro_rules! functions {
    ($($name:ident: $symbol:literal fn($($arg:ty),*) -> $result:ty;)*) => {
        pub(super) struct Functions { $(pub(super) $name: unsafe extern "C" fn($($arg),*) -> $result,)* }

        impl Functions {
            /// # Safety
            /// `library` must be oneDNN 3, and never be unloaded.
            pub(super) unsafe fn of(library: &Library) -> Result<Self, libloading::Error> {
                // SAFETY: the symbols of that library have these types.
                Ok(unsafe { Functions { $($name: *library.get($symbol)?,)* } })
            }
        }
    };
}

functions! {
    version: b"dnnl_version\0" fn() -> *const Version;
    engine_create: b"dnnl_engine_create\0" fn(*mut Object, c_int, usize) -> Status;
    stream_create: b"dnnl_stream_create\0" fn(*mut Object, Object, c_uint) -> Status;
    stream_wait: b"dnnl_stream_wait\0" fn(Object) -> Status;
    with_strides: b"dnnl_memory_desc_create_with_strides\0" fn(*mut Object, c_int, *const Dims, c_int, *const Dims) -> Status;
    with_tag: b"dnnl_memory_desc_create_with_tag\0" fn(*mut Object, c_int, *const Dims, c_int, c_int) -> Status;
    equal: b"dnnl_memory_desc_equal\0" fn(*const c_void, *const c_void) -> c_int;
    size: b"dnnl_memory_desc_get_size\0" fn(*const c_void) -> usize;
    memory_create: b"dnnl_memory_create\0" fn(*mut Object, *const c_void, Object, *mut c_void) -> Status;
    memory_destroy: b"dnnl_memory_destroy\0" fn(Object) -> Status;
    attributes_create: b"dnnl_primitive_attr_create\0" fn(*mut Object) -> Status;
    set_scratchpad: b"dnnl_primitive_attr_set_scratchpad_mode\0" fn(Object, c_int) -> Status;
    forward: b"dnnl_convolution_forward_primitive_desc_create\0" fn(
        *mut Object, Object, c_int, c_int, Object, Object, Object, Object,
        *const Dims, *const Dims, *const Dims, *const Dims, Object
    ) -> Status;
    backward_data: b"dnnl_convolution_backward_data_primitive_desc_create\0" fn(
        *mut Object, Object, c_int, Object, Object, Object,
        *const Dims, *const Dims, *const Dims, *const Dims, Object, Object
    ) -> Status;
    backward_weights: b"dnnl_convolution_backward_weights_primitive_desc_create\0" fn(
        *mut Object, Object, c_int, Object, Object, Object, Object,
        *const Dims, *const Dims, *const Dims, *const Dims, Object, Object
    ) -> Status;
    reorder: b"dnnl_reorder_primitive_desc_create\0" fn(*mut Object, *const c_void, Object, *const c_void, Object, Object) -> Status;
    query: b"dnnl_primitive_desc_query_md\0" fn(Object, c_int, c_int) -> *const c_void;
    primitive_create: b"dnnl_primitive_create\0" fn(*mut Object, Object) -> Status;
    execute: b"dnnl_primitive_execute\0" fn(Object, Object, c_int, *const Argument) -> Status;
}
