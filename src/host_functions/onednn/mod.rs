//! Convolutions by oneDNN, Intel's library for x86 processors: [`lowering::DIRECT_CONVOLUTION`] and [`lowering::PACK_KERNEL`].

mod abi;
mod ready;

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::mem::ManuallyDrop;
use std::path::Path;
use std::ptr::null_mut;
use std::sync::{Mutex, OnceLock, PoisonError};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use lowering::{ConvPass, DirectConvolution};

use abi::*;
use pjrt::ffi::{self, Call, CallFrame};
use ready::Ready;

/// The loaded library. Its objects live as long as the process, like compiled programs.
struct OneDnn {
    version: String,
    functions: Functions,
    _library: ManuallyDrop<Library>,
    engine: Object,
    /// Prepared convolutions, or why preparing failed.
    ready: Mutex<HashMap<DirectConvolution, Result<&'static Ready, String>>>,
}

// SAFETY: engines, descriptors and primitives may be used from any thread and are not changed once made; with its scratchpad
// given by the caller a primitive may run several times at once.
unsafe impl Send for OneDnn {}
// SAFETY: as above.
unsafe impl Sync for OneDnn {}

static LOADED: OnceLock<OneDnn> = OnceLock::new();

/// Loads the library at `path`, once. Returns its version.
///
/// # Errors
/// The reason why the file is not oneDNN 3.
pub fn load(path: &Path) -> Result<String, String> {
    if let Some(loaded) = LOADED.get() {
        return Ok(loaded.version.clone());
    }
    // SAFETY: the user or the package asks for the library's initialisers to run; it is never unloaded.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map_err(|e| e.to_string())?;
    let library = ManuallyDrop::new(library);
    // SAFETY: the library stays; the version is asked before anything else is called.
    let functions = unsafe { Functions::of(&library) }.map_err(|e| e.to_string())?;
    // SAFETY: takes nothing; the result is the library's own constant.
    let Version { major, minor, patch } = unsafe { (functions.version)().read() };
    if major != 3 {
        return Err(format!("its version is {major}; expected 3"));
    }
    let mut engine = null_mut();
    // SAFETY: the out-pointer is valid.
    check("dnnl_engine_create", unsafe {
        (functions.engine_create)(&raw mut engine, CPU, 0)
    })?;
    let loaded = LOADED.get_or_init(|| OneDnn {
        version: format!("oneDNN {major}.{minor}.{patch}"),
        functions,
        _library: library,
        engine,
        ready: Mutex::default(),
    });
    Ok(loaded.version.clone())
}

/// Handler of [`lowering::DIRECT_CONVOLUTION`].
///
/// # Safety
/// To be called by XLA only.
pub unsafe extern "C" fn convolution(frame: *mut CallFrame) -> *mut c_void {
    // SAFETY: as the caller says.
    unsafe { ffi::handle(frame, run) }
}

/// Handler of [`lowering::PACK_KERNEL`].
///
/// # Safety
/// To be called by XLA only.
pub unsafe extern "C" fn pack_kernel(frame: *mut CallFrame) -> *mut c_void {
    // SAFETY: as the caller says.
    unsafe { ffi::handle(frame, pack) }
}

fn check(what: &str, status: Status) -> Result<(), String> {
    match status {
        0 => Ok(()),
        status => Err(format!("{what} failed with status {status}")),
    }
}

/// Memory that a thread reuses in its next call.
#[derive(Default)]
struct Workspace {
    stream: Option<Object>,
    kernel: Vec<Line>,
    flipped: Vec<Line>,
    scratchpad: Vec<Line>,
}

/// A cache line, for alignment.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

thread_local! {
    static WORKSPACE: RefCell<Workspace> = RefCell::default();
}

/// Grows a buffer to at least `bytes`.
fn room(of: &mut Vec<Line>, bytes: usize) -> *mut c_void {
    let lines = bytes.div_ceil(size_of::<Line>());
    if of.len() < lines {
        *of = vec![Line([0; 64]); lines];
    }
    of.as_mut_ptr().cast()
}

/// Copies a kernel with its window flipped. The `elements` of the window are its outermost axes
/// ([`DirectConvolution::from_op`]).
fn flipped(kernel: &[f32], elements: usize, into: &mut Vec<Line>) -> *const f32 {
    let to = room(into, size_of_val(kernel)).cast::<f32>();
    for (i, element) in kernel.rchunks_exact(kernel.len() / elements).enumerate() {
        // SAFETY: there is room for as many elements as the kernel has.
        unsafe {
            to.add(i * element.len())
                .copy_from_nonoverlapping(element.as_ptr(), element.len())
        };
    }
    to
}

/// The library, and the convolution that a call describes.
fn from_call(call: &Call<'_>) -> Result<(&'static OneDnn, DirectConvolution), String> {
    let library = LOADED.get().ok_or("oneDNN is not loaded")?;
    let what = DirectConvolution::from_attributes(|name| call.numbers(name));
    Ok((library, what.ok_or("the call describes no convolution")?))
}

fn pack(call: &Call<'_>) -> Result<(), String> {
    let (library, what) = from_call(call)?;
    let (Some(own), Some((out, room))) = (call.argument(0), call.result(0)) else {
        return Err("the call lacks an argument and a result".into());
    };
    if [own.len(), room] != [what.kernel_elements(), what.packed_len()] {
        return Err("the call's arrays do not have the sizes of its attributes".into());
    }
    let ready = library.ready(&what)?;
    WORKSPACE.with_borrow_mut(|workspace| library.pack(ready, own, out, workspace))
}

fn run(call: &Call<'_>) -> Result<(), String> {
    let (library, what) = from_call(call)?;
    let (Some(left), Some(right), Some((out, room))) = (call.argument(0), call.argument(1), call.result(0)) else {
        return Err("the call lacks two arguments and a result".into());
    };
    let [x, y] = [&what.x, &what.y].map(|array| array.sizes.iter().product());
    let w = if what.packed {
        what.packed_len()
    } else {
        what.kernel_elements()
    };
    let expected: [usize; 3] = match what.pass {
        ConvPass::Forward => [x, w, y],
        ConvPass::Input => [y, w, x],
        ConvPass::Kernel => [x, y, w],
    };
    if expected != [left.len(), right.len(), room] {
        return Err("the call's arrays do not have the sizes of its attributes".into());
    }
    let ready = library.ready(&what)?;
    WORKSPACE.with_borrow_mut(|workspace| library.run(ready, &what, [left, right], out, workspace))
}

impl OneDnn {
    /// The prepared convolution. Prepares it at the first call.
    fn ready(&self, what: &DirectConvolution) -> Result<&'static Ready, String> {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = ready.get(what) {
            return found.clone();
        }
        let made = self.make(what).map(|made| &*Box::leak(Box::new(made)));
        ready.insert(what.clone(), made.clone());
        made
    }

    /// The stream of this thread.
    fn stream(&self, workspace: &mut Workspace) -> Result<Object, String> {
        if let Some(stream) = workspace.stream {
            return Ok(stream);
        }
        let mut stream = null_mut();
        // SAFETY: the out-pointer is valid.
        let status = unsafe { (self.functions.stream_create)(&raw mut stream, self.engine, IN_ORDER) };
        check("dnnl_stream_create", status)?;
        Ok(*workspace.stream.insert(stream))
    }

    /// Size in bytes of a described array.
    fn size(&self, of: *const c_void) -> usize {
        // SAFETY: a description by the library, or null.
        unsafe { (self.functions.size)(of) }
    }

    /// Copies a kernel into the layout that `ready` uses.
    fn pack(&self, ready: &Ready, own: &[f32], out: *mut f32, workspace: &mut Workspace) -> Result<(), String> {
        let Some((from, reorder)) = ready.packed else {
            // SAFETY: there is room for as many elements.
            unsafe { out.copy_from_nonoverlapping(own.as_ptr(), own.len()) };
            return Ok(());
        };
        let stream = self.stream(workspace)?;
        let own = Memory::new(self, from, own.as_ptr().cast())?;
        let out = Memory::new(self, ready.w, out.cast_const().cast())?;
        self.execute(reorder, stream, &[(SRC, &own), (DST, &out)])?;
        self.wait(stream)
    }

    /// Waits for the stream of this thread.
    fn wait(&self, stream: Object) -> Result<(), String> {
        // SAFETY: the stream is this thread's own.
        check("dnnl_stream_wait", unsafe { (self.functions.stream_wait)(stream) })
    }

    fn run(
        &self,
        ready: &Ready,
        what: &DirectConvolution,
        [left, right]: [&[f32]; 2],
        out: *mut f32,
        workspace: &mut Workspace,
    ) -> Result<(), String> {
        let stream = self.stream(workspace)?;
        let memory = |of: *const c_void, data: *const c_void| Memory::new(self, of, data);
        let right = match ready.flipped {
            Some(elements) => flipped(right, elements, &mut workspace.flipped),
            None => right.as_ptr(),
        };
        let scratchpad = room(&mut workspace.scratchpad, self.size(ready.scratchpad).max(1));
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
            Some((wanted, reorder)) => Some((memory(wanted, room(&mut workspace.kernel, self.size(wanted)))?, reorder)),
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
        self.wait(stream)
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

/// An array in the library's form.
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
