//! The profiler of a plugin (TPUs and NVIDIA GPUs have one), through the profiler extension of the C API, version 1. The package
//! that `abi.rs` is generated from lacks its header, so its few structs are defined here.

use std::ffi::{c_char, c_int, c_void};
use std::ptr::{null, null_mut};

use crate::abi::{
    PJRT_Error_Code_UNIMPLEMENTED, PJRT_Error_Code_UNKNOWN, PJRT_Extension_Base, PJRT_Extension_Type_Profiler,
};
use crate::api::{Api, string};
use crate::client::Client;
use crate::error::{Error, Result};

/// A failure, owned by the plugin.
type Failure = *mut c_void;
/// A function of the profiler that may fail.
type Function<A> = Option<unsafe extern "C" fn(*mut A) -> Failure>;

#[repr(C)]
struct Extension {
    base: PJRT_Extension_Base,
    /// Null if the extension provides only the context of a call.
    profiler: *const Functions,
}

/// `PLUGIN_Profiler_Api`.
#[repr(C)]
struct Functions {
    struct_size: usize,
    private: *mut c_void,
    error_destroy: Option<unsafe extern "C" fn(*mut FailureArgs)>,
    error_message: Option<unsafe extern "C" fn(*mut MessageArgs)>,
    error_get_code: Function<CodeArgs>,
    create: Function<CreateArgs>,
    destroy: Function<HandleArgs>,
    start: Function<HandleArgs>,
    stop: Function<HandleArgs>,
    collect_data: Function<CollectArgs>,
}

#[repr(C)]
struct FailureArgs {
    struct_size: usize,
    private: *mut c_void,
    failure: Failure,
}

#[repr(C)]
struct MessageArgs {
    struct_size: usize,
    private: *mut c_void,
    failure: Failure,
    message: *const c_char,
    size: usize,
}

#[repr(C)]
struct CodeArgs {
    struct_size: usize,
    private: *mut c_void,
    failure: Failure,
    code: c_int,
}

#[repr(C)]
struct CreateArgs {
    struct_size: usize,
    /// Serialised options; empty for the defaults.
    options: *const c_char,
    options_size: usize,
    profiler: *mut c_void,
}

/// Arguments of the functions that destroy, start and stop.
#[repr(C)]
struct HandleArgs {
    struct_size: usize,
    profiler: *mut c_void,
}

#[repr(C)]
struct CollectArgs {
    struct_size: usize,
    profiler: *mut c_void,
    buffer: *mut u8,
    size: usize,
}

/// A profiler of all devices of a plugin, for one trace: start, stop, collect.
pub struct Profiler {
    functions: &'static Functions,
    handle: *mut c_void,
    /// The client of the devices; must outlive the profiler.
    _client: Client,
}

// SAFETY: a handle that one thread at a time uses, as the methods' `&mut self` sees to.
unsafe impl Send for Profiler {}

impl Client {
    /// The plugin's profiler, not started; `None` if it has none.
    ///
    /// # Errors
    /// The plugin's, and one that lacks a function.
    pub fn profiler(&self) -> Result<Option<Profiler>> {
        let Some(functions) = functions(&self.0.api)? else {
            return Ok(None);
        };
        let mut args = CreateArgs {
            struct_size: size_of::<CreateArgs>(),
            options: c"".as_ptr(),
            options_size: 0,
            profiler: null_mut(),
        };
        // SAFETY: the function of this struct.
        unsafe { call(functions, "PLUGIN_Profiler_Create", functions.create, &mut args)? };
        Ok(Some(Profiler {
            functions,
            handle: args.profiler,
            _client: self.clone(),
        }))
    }
}

impl Profiler {
    /// Starts recording.
    ///
    /// # Errors
    /// The plugin's, such as that another recording is going on.
    pub fn start(&mut self) -> Result<()> {
        self.tell("PLUGIN_Profiler_Start", self.functions.start)
    }

    /// Stops recording.
    ///
    /// # Errors
    /// Errors of the plugin.
    pub fn stop(&mut self) -> Result<()> {
        self.tell("PLUGIN_Profiler_Stop", self.functions.stop)
    }

    /// Calls a function whose only argument is the profiler.
    fn tell(&mut self, name: &'static str, function: Function<HandleArgs>) -> Result<()> {
        let mut args = HandleArgs {
            struct_size: size_of::<HandleArgs>(),
            profiler: self.handle,
        };
        // SAFETY: a function of this struct, for a living profiler.
        unsafe { call(self.functions, name, function, &mut args) }
    }

    /// Returns the trace after [`Profiler::stop`]: a serialised `XSpace`, the format of TensorBoard's profile plugin and XProf.
    ///
    /// # Errors
    /// Errors of the plugin.
    pub fn collect(&mut self) -> Result<Vec<u8>> {
        let mut args = CollectArgs {
            struct_size: size_of::<CollectArgs>(),
            profiler: self.handle,
            buffer: null_mut(),
            size: 0,
        };
        let name = "PLUGIN_Profiler_CollectData";
        // SAFETY: as in `tell`. Without a buffer the call only tells how many bytes there are; then the buffer has as many.
        unsafe { call(self.functions, name, self.functions.collect_data, &mut args)? };
        let mut data = vec![0; args.size];
        args.buffer = data.as_mut_ptr();
        // SAFETY: as above.
        unsafe { call(self.functions, name, self.functions.collect_data, &mut args)? };
        data.truncate(args.size);
        Ok(data)
    }
}

impl Drop for Profiler {
    fn drop(&mut self) {
        // Last use of the handle. A failure has no remedy.
        let _ = self.tell("PLUGIN_Profiler_Destroy", self.functions.destroy);
    }
}

/// The functions of a plugin that has them.
fn functions(api: &Api) -> Result<Option<&'static Functions>> {
    let Some(node) = api.extension(PJRT_Extension_Type_Profiler) else {
        return Ok(None);
    };
    // SAFETY: a node of this type is this struct, and lives as long as the plugin's table, which is for ever.
    let functions = unsafe { (&raw const (*node.cast::<Extension>()).profiler).read().as_ref() };
    match functions {
        Some(functions) if functions.struct_size < size_of::<Functions>() => Err(Error::Unsupported {
            slot: "PLUGIN_Profiler_CollectData",
            version: api.version(),
        }),
        functions => Ok(functions),
    }
}

/// Calls one of the functions; its failure becomes an error.
///
/// # Safety
/// `function` must be the one that takes `args`, whose fields must be what it wants.
unsafe fn call<A>(functions: &Functions, name: &'static str, function: Function<A>, args: &mut A) -> Result<()> {
    let Some(function) = function else {
        return Err(Error::Plugin {
            call: name,
            code: PJRT_Error_Code_UNIMPLEMENTED,
            message: "the plugin's profiler has no such function".into(),
        });
    };
    // SAFETY: as the caller says.
    let failure = unsafe { function(args) };
    if failure.is_null() {
        return Ok(());
    }
    let private = functions.private;
    let mut text = MessageArgs {
        struct_size: size_of::<MessageArgs>(),
        private,
        failure,
        message: null(),
        size: 0,
    };
    let mut code = CodeArgs {
        struct_size: size_of::<CodeArgs>(),
        private,
        failure,
        code: PJRT_Error_Code_UNKNOWN as c_int,
    };
    let mut destroy = FailureArgs {
        struct_size: size_of::<FailureArgs>(),
        private,
        failure,
    };
    // SAFETY: the functions of these structs; the message is copied before the failure that owns it goes.
    unsafe {
        if let Some(message) = functions.error_message {
            message(&mut text);
        }
        if let Some(get_code) = functions.error_get_code {
            get_code(&mut code);
        }
        let message = string(text.message, text.size);
        if let Some(free) = functions.error_destroy {
            free(&mut destroy);
        }
        Err(Error::Plugin {
            call: name,
            code: code.code as _,
            message,
        })
    }
}
