//! Convolutions by oneDNN, Intel's library of kernels for x86 processors: what a compiled program's calls of
//! [`hlo::DIRECT_CONVOLUTION`] run. The few functions of its C interface (version 3) that this takes stand here.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{c_int, c_uint, c_void};
use std::mem::ManuallyDrop;
use std::path::Path;
use std::ptr::null_mut;
use std::sync::{Mutex, OnceLock, PoisonError};

use hlo::{ConvPass, DirectConvolution, Placed};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use super::ffi::{self, Call, CallFrame};

/// `dnnl_status_t`: 0 is success.
type Status = c_int;
/// Any object of the library.
type Object = *mut c_void;
/// `dnnl_dims_t`.
type Dims = [i64; 12];

// Numbers of the library's enumerations.
const CPU: c_int = 1;
const IN_ORDER: c_uint = 1;
const F32: c_int = 3;
const ANY_FORMAT: c_int = 1;
const FORWARD_TRAINING: c_int = 64;
const DIRECT: c_int = 1;
const SCRATCHPAD_BY_USER: c_int = 1;
const QUERY_WEIGHTS: c_int = 131;
const QUERY_DIFF_WEIGHTS: c_int = 132;
const QUERY_SCRATCHPAD: c_int = 136;
const SRC: c_int = 1;
const DST: c_int = 17;
const WEIGHTS: c_int = 33;
const SCRATCHPAD: c_int = 80;
const DIFF_SRC: c_int = 129;
const DIFF_DST: c_int = 145;
const DIFF_WEIGHTS: c_int = 161;

/// `dnnl_exec_arg_t`.
#[repr(C)]
struct Argument {
    role: c_int,
    memory: Object,
}

/// `dnnl_version_t`, its head.
#[repr(C)]
struct Version {
    major: c_int,
    minor: c_int,
    patch: c_int,
}

/// Declares the functions that are taken from the library, and how they are looked up.
macro_rules! functions {
    ($($name:ident: $symbol:literal fn($($arg:ty),*) -> $result:ty;)*) => {
        struct Functions { $($name: unsafe extern "C" fn($($arg),*) -> $result,)* }

        impl Functions {
            /// # Safety
            /// `library` must be oneDNN 3, and never be unloaded.
            unsafe fn of(library: &Library) -> Result<Self, libloading::Error> {
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

/// The loaded library. What is made of it is kept for the life of the process, as compiled programs are.
struct OneDnn {
    functions: Functions,
    _library: ManuallyDrop<Library>,
    engine: Object,
    /// Ready convolutions, or why there is none.
    ready: Mutex<HashMap<DirectConvolution, Result<&'static Ready, String>>>,
}

/// A convolution that is ready to run.
struct Ready {
    primitive: Object,
    x: Object,
    /// The kernel as the program has it.
    w: Object,
    y: Object,
    /// The order of the kernel's elements that the primitive wants, and what brings them into it or back, where that is
    /// another.
    reordered: Option<(*const c_void, Object)>,
    scratchpad: *const c_void,
    /// Elements of the window, where the kernel is to be turned back.
    turned: Option<usize>,
}

// SAFETY: engines, descriptors and primitives may be used from any thread and are not changed once made; with its scratchpad
// given by the caller a primitive may run several times at once.
unsafe impl Send for OneDnn {}
// SAFETY: as above.
unsafe impl Sync for OneDnn {}
// SAFETY: as above.
unsafe impl Send for Ready {}
// SAFETY: as above.
unsafe impl Sync for Ready {}

static LOADED: OnceLock<OneDnn> = OnceLock::new();

/// Loads the library at `path`, once; what it is.
///
/// # Errors
/// Why the file is not oneDNN 3.
pub fn load(path: &Path) -> Result<String, String> {
    let shown = |library: &OneDnn| {
        // SAFETY: takes nothing; the result is the library's own constant.
        let Version { major, minor, patch } = unsafe { ((library.functions.version)()).read() };
        format!("oneDNN {major}.{minor}.{patch}")
    };
    if let Some(loaded) = LOADED.get() {
        return Ok(shown(loaded));
    }
    // SAFETY: running the library's initialisers is what whoever names it asks for; it is never unloaded.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map_err(|e| e.to_string())?;
    let library = ManuallyDrop::new(library);
    // SAFETY: the library stays; the version is asked before anything else is called.
    let functions = unsafe { Functions::of(&library) }.map_err(|e| e.to_string())?;
    // SAFETY: as in `shown`.
    let major = unsafe { (*(functions.version)()).major };
    if major != 3 {
        return Err(format!("its version is {major}; expected 3"));
    }
    let mut engine = null_mut();
    // SAFETY: the out-pointer is valid.
    check("dnnl_engine_create", unsafe {
        (functions.engine_create)(&raw mut engine, CPU, 0)
    })?;
    let loaded = LOADED.get_or_init(|| OneDnn {
        functions,
        _library: library,
        engine,
        ready: Mutex::default(),
    });
    Ok(shown(loaded))
}

/// The function that programs call.
///
/// # Safety
/// To be called by XLA only.
pub unsafe extern "C" fn convolution(frame: *mut CallFrame) -> *mut c_void {
    // SAFETY: as the caller says.
    unsafe { ffi::answer(frame, run) }
}

fn check(what: &str, status: Status) -> Result<(), String> {
    match status {
        0 => Ok(()),
        status => Err(format!("{what} failed with status {status}")),
    }
}

fn list(values: &[usize]) -> Dims {
    let mut dims = [0; 12];
    for (to, &from) in dims.iter_mut().zip(values) {
        *to = from as i64;
    }
    dims
}

/// Memory that a thread uses again in its next call.
#[derive(Default)]
struct Workspace {
    stream: Option<Object>,
    kernel: Vec<Line>,
    turned: Vec<Line>,
    scratchpad: Vec<Line>,
}

/// As wide as processors like their data aligned.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

thread_local! {
    static WORKSPACE: RefCell<Workspace> = RefCell::default();
}

/// At least so many bytes.
fn room(of: &mut Vec<Line>, bytes: usize) -> *mut c_void {
    let lines = bytes.div_ceil(size_of::<Line>());
    if of.len() < lines {
        *of = vec![Line([0; 64]); lines];
    }
    of.as_mut_ptr().cast()
}

fn run(call: &Call<'_>) -> Result<(), String> {
    let library = LOADED.get().ok_or("oneDNN is not loaded")?;
    let what = DirectConvolution::from_attributes(|name| call.numbers(name)).ok_or("the call says no convolution")?;
    let (Some(left), Some(right), Some((out, room))) = (call.argument(0), call.argument(1), call.result(0)) else {
        return Err("the call lacks two arguments and a result".into());
    };
    let len = |array: &Placed| array.sizes.iter().product::<usize>();
    let expected = match what.pass {
        ConvPass::Forward => [&what.x, &what.w, &what.y],
        ConvPass::Input => [&what.y, &what.w, &what.x],
        ConvPass::Kernel => [&what.x, &what.y, &what.w],
    };
    if expected.map(len) != [left.len(), right.len(), room] {
        return Err("the call's arrays have other sizes than it says".into());
    }
    let ready = library.ready(&what)?;
    WORKSPACE.with_borrow_mut(|workspace| library.run(ready, &what, [left, right], out, workspace))
}

impl OneDnn {
    /// The convolution, made when it is first asked for.
    fn ready(&self, what: &DirectConvolution) -> Result<&'static Ready, String> {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = ready.get(what) {
            return found.clone();
        }
        let made = self.make(what).map(|made| &*Box::leak(Box::new(made)));
        ready.insert(what.clone(), made.clone());
        made
    }

    fn make(&self, what: &DirectConvolution) -> Result<Ready, String> {
        let f = &self.functions;
        let descriptor = |sizes: &[usize], strides: Option<&[usize]>| {
            let (sizes, rank, mut made) = (list(sizes), sizes.len() as c_int, null_mut());
            // SAFETY: lists of twelve, of which `rank` count; the out-pointer is valid.
            let status = unsafe {
                match strides {
                    Some(strides) => (f.with_strides)(&raw mut made, rank, &sizes, F32, &list(strides)),
                    None => (f.with_tag)(&raw mut made, rank, &sizes, F32, ANY_FORMAT),
                }
            };
            check("a description of an array", status).map(|()| made)
        };
        // Without groups the library wants no axis of them.
        let first = usize::from(what.w.sizes.first() == Some(&1));
        let w_sizes = &what.w.sizes[first..];
        let x = descriptor(&what.x.sizes, Some(&what.x.strides))?;
        let y = descriptor(&what.y.sizes, Some(&what.y.strides))?;
        let w = descriptor(w_sizes, Some(&what.w.strides[first..]))?;
        let w_any = descriptor(w_sizes, None)?;
        let between: Vec<usize> = what.dilation.iter().map(|d| d - 1).collect();
        let [stride, dilation, low, high] = [&what.stride, &between, &what.pad_low, &what.pad_high].map(|of| list(of));

        let (mut attributes, mut forward, mut description, mut primitive) =
            (null_mut(), null_mut(), null_mut(), null_mut());
        // SAFETY: all objects are the library's and of the kinds that its functions take, all lists are of twelve, and what is
        // asked of a description belongs to it and lives as long: for ever.
        unsafe {
            check("attributes", (f.attributes_create)(&raw mut attributes))?;
            check("attributes", (f.set_scratchpad)(attributes, SCRATCHPAD_BY_USER))?;
            let make = f.forward;
            let status = make(
                &raw mut forward,
                self.engine,
                FORWARD_TRAINING,
                DIRECT,
                x,
                w_any,
                null_mut(),
                y,
                &stride,
                &dilation,
                &low,
                &high,
                attributes,
            );
            check("dnnl_convolution_forward_primitive_desc_create", status)?;
            match what.pass {
                ConvPass::Forward => description = forward,
                ConvPass::Input => {
                    let make = f.backward_data;
                    let status = make(
                        &raw mut description,
                        self.engine,
                        DIRECT,
                        x,
                        w_any,
                        y,
                        &stride,
                        &dilation,
                        &low,
                        &high,
                        forward,
                        attributes,
                    );
                    check("dnnl_convolution_backward_data_primitive_desc_create", status)?;
                }
                ConvPass::Kernel => {
                    let make = f.backward_weights;
                    let status = make(
                        &raw mut description,
                        self.engine,
                        DIRECT,
                        x,
                        w_any,
                        null_mut(),
                        y,
                        &stride,
                        &dilation,
                        &low,
                        &high,
                        forward,
                        attributes,
                    );
                    check("dnnl_convolution_backward_weights_primitive_desc_create", status)?;
                }
            }
            check(
                "dnnl_primitive_create",
                (f.primitive_create)(&raw mut primitive, description),
            )?;
            let gradient = what.pass == ConvPass::Kernel;
            let asked = if gradient { QUERY_DIFF_WEIGHTS } else { QUERY_WEIGHTS };
            let wanted = (f.query)(description, asked, 0);
            let mut reordered = None;
            if (f.equal)(w, wanted) == 0 {
                let [from, to] = if gradient {
                    [wanted, w.cast_const()]
                } else {
                    [w.cast_const(), wanted]
                };
                let (mut description, mut reorder) = (null_mut(), null_mut());
                let status = (f.reorder)(&raw mut description, from, self.engine, to, self.engine, null_mut());
                check("dnnl_reorder_primitive_desc_create", status)?;
                check(
                    "dnnl_primitive_create",
                    (f.primitive_create)(&raw mut reorder, description),
                )?;
                reordered = Some((wanted, reorder));
            }
            let elements: usize = what.w.sizes[3..].iter().product();
            Ok(Ready {
                primitive,
                x,
                w,
                y,
                reordered,
                scratchpad: (f.query)(description, QUERY_SCRATCHPAD, 0),
                turned: (what.pass == ConvPass::Input && elements > 1).then_some(elements),
            })
        }
    }

    fn run(
        &self,
        ready: &Ready,
        what: &DirectConvolution,
        [left, right]: [&[f32]; 2],
        out: *mut f32,
        workspace: &mut Workspace,
    ) -> Result<(), String> {
        let f = &self.functions;
        let stream = match workspace.stream {
            Some(stream) => stream,
            None => {
                let mut stream = null_mut();
                // SAFETY: the out-pointer is valid.
                check("dnnl_stream_create", unsafe {
                    (f.stream_create)(&raw mut stream, self.engine, IN_ORDER)
                })?;
                *workspace.stream.insert(stream)
            }
        };
        let memory = |of: *const c_void, data: *const c_void| Memory::new(self, of, data);
        let (left, mut right) = (left, right.as_ptr());
        if let Some(elements) = ready.turned {
            let len = what.w.sizes.iter().product::<usize>();
            let to = room(&mut workspace.turned, size_of::<f32>() * len).cast::<f32>();
            let each = len / elements;
            for i in 0..elements {
                // SAFETY: both have `elements` parts of `each`; the window's axes are the outermost (`DirectConvolution::of`).
                unsafe {
                    to.add(i * each)
                        .copy_from_nonoverlapping(right.add((elements - 1 - i) * each), each)
                };
            }
            right = to;
        }
        let size = |of: *const c_void| if of.is_null() { 0 } else { unsafe { (f.size)(of) } };
        let scratchpad = room(&mut workspace.scratchpad, size(ready.scratchpad).max(1));
        let (left, right, out) = (
            left.as_ptr().cast::<c_void>(),
            right.cast::<c_void>(),
            out.cast_const().cast::<c_void>(),
        );
        let (x, w, y) = match what.pass {
            ConvPass::Forward => (left, right, out),
            ConvPass::Input => (out, right, left),
            ConvPass::Kernel => (left, out, right),
        };
        let own = memory(ready.w, w)?;
        let other = match ready.reordered {
            None => None,
            Some((wanted, reorder)) => Some((memory(wanted, room(&mut workspace.kernel, size(wanted)))?, reorder)),
        };
        let kernel = other.as_ref().map_or(&own, |(kernel, _)| kernel);
        let reorder = |from: &Memory<'_>, to: &Memory<'_>| match &other {
            None => Ok(()),
            Some((_, reorder)) => self.execute(*reorder, stream, &[(SRC, from), (DST, to)]),
        };
        let (x, y) = (memory(ready.x, x)?, memory(ready.y, y)?);
        let scratchpad = memory(ready.scratchpad, scratchpad)?;
        let roles = match what.pass {
            ConvPass::Forward => [SRC, WEIGHTS, DST],
            ConvPass::Input => [DIFF_SRC, WEIGHTS, DIFF_DST],
            ConvPass::Kernel => [SRC, DIFF_WEIGHTS, DIFF_DST],
        };
        if what.pass != ConvPass::Kernel {
            reorder(&own, kernel)?;
        }
        let arguments = [
            (roles[0], &x),
            (roles[1], kernel),
            (roles[2], &y),
            (SCRATCHPAD, &scratchpad),
        ];
        self.execute(ready.primitive, stream, &arguments)?;
        if what.pass == ConvPass::Kernel {
            reorder(kernel, &own)?;
        }
        // SAFETY: the stream is this thread's own.
        check("dnnl_stream_wait", unsafe { (f.stream_wait)(stream) })
    }

    fn execute(&self, primitive: Object, stream: Object, arguments: &[(c_int, &Memory<'_>)]) -> Result<(), String> {
        let arguments: Vec<Argument> = arguments
            .iter()
            .map(|&(role, memory)| Argument {
                role,
                memory: memory.object,
            })
            .collect();
        // SAFETY: the memories are as large as their descriptions say, and live until the caller has waited for the stream.
        let status =
            unsafe { (self.functions.execute)(primitive, stream, arguments.len() as c_int, arguments.as_ptr()) };
        check("dnnl_primitive_execute", status)
    }
}

/// An array as the library takes it.
struct Memory<'l> {
    library: &'l OneDnn,
    object: Object,
}

impl<'l> Memory<'l> {
    fn new(library: &'l OneDnn, description: *const c_void, data: *const c_void) -> Result<Self, String> {
        let mut object = null_mut();
        // SAFETY: the description is the library's; nothing is read from `data` yet.
        let status =
            unsafe { (library.functions.memory_create)(&raw mut object, description, library.engine, data.cast_mut()) };
        check("dnnl_memory_create", status).map(|()| Memory { library, object })
    }
}

impl Drop for Memory<'_> {
    fn drop(&mut self) {
        // SAFETY: last use. A failure has no remedy.
        unsafe { (self.library.functions.memory_destroy)(self.object) };
    }
}
