//! Prepares convolutions.

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;

use lowering::{ConvPass, DirectConvolution};

use super::abi::*;
use super::{OneDnn, check};

/// A prepared convolution.
pub(super) struct Ready {
    pub(super) primitive: Object,
    pub(super) x: Object,
    /// Layout of the kernel argument: that of the program, or packed.
    pub(super) w: *const c_void,
    pub(super) y: Object,
    /// The primitive's layout of the kernel and the primitive that converts to or from it, if it differs from `w`.
    pub(super) reordered: Option<(*const c_void, Object)>,
    /// If the kernel argument is packed: the layout of the program, and the primitive that packs it.
    pub(super) packed: Option<(*const c_void, Object)>,
    pub(super) scratchpad: *const c_void,
    /// Number of elements of the window, if the kernel must be flipped.
    pub(super) flipped: Option<usize>,
}

// SAFETY: primitives and descriptions may be used from any thread and are not changed once made.
unsafe impl Send for Ready {}
// SAFETY: as above.
unsafe impl Sync for Ready {}

/// Descriptions of a convolution's arrays.
struct Arrays {
    x: Object,
    w: Object,
    /// The kernel in the layout that the library chooses.
    w_any: Object,
    y: Object,
}

fn list(values: &[usize]) -> Dims {
    let mut dims = [0; 12];
    for (to, &from) in dims.iter_mut().zip(values) {
        *to = from as i64;
    }
    dims
}

impl OneDnn {
    /// Prepares a convolution: chooses an implementation and generates its code.
    pub(super) fn make(&self, what: &DirectConvolution) -> Result<Ready, String> {
        let f = &self.functions;
        let arrays = self.arrays(what)?;
        let description = self.described(what, &arrays)?;
        let gradient = what.pass == ConvPass::Kernel;
        let asked = if gradient { QUERY_DIFF_WEIGHTS } else { QUERY_WEIGHTS };
        // SAFETY: results of a query live as long as the description, which is never freed.
        let (wanted, scratchpad) = unsafe {
            (
                (f.query)(description, asked, 0),
                (f.query)(description, QUERY_SCRATCHPAD, 0),
            )
        };
        let elements: usize = what.w.sizes[3..].iter().product();
        let own = arrays.w.cast_const();
        let reordered = self.reordered(own, wanted, gradient)?;
        let room = what.packed_len() * size_of::<f32>();
        let (packed, reordered) = match reordered {
            Some((wanted, reorder)) if what.packed && self.size(wanted) <= room => (Some((own, reorder)), None),
            reordered => (None, reordered),
        };
        Ok(Ready {
            primitive: self.created(description)?,
            reordered,
            x: arrays.x,
            w: if packed.is_some() { wanted } else { own },
            packed,
            y: arrays.y,
            scratchpad,
            flipped: (what.pass == ConvPass::Input && elements > 1).then_some(elements),
        })
    }

    fn arrays(&self, what: &DirectConvolution) -> Result<Arrays, String> {
        let f = &self.functions;
        let described = |sizes: &[usize], strides: Option<&[usize]>| {
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
        // The library expects no group axis if there is one group.
        let first = usize::from(what.w.sizes.first() == Some(&1));
        Ok(Arrays {
            x: described(&what.x.sizes, Some(&what.x.strides))?,
            w: described(&what.w.sizes[first..], Some(&what.w.strides[first..]))?,
            w_any: described(&what.w.sizes[first..], None)?,
            y: described(&what.y.sizes, Some(&what.y.strides))?,
        })
    }

    /// Description of the pass, with the best implementation.
    #[rustfmt::skip] // one line per argument would hide that the three calls are the same
    fn described(&self, what: &DirectConvolution, &Arrays { x, w_any, y, .. }: &Arrays) -> Result<Object, String> {
        let (f, engine) = (&self.functions, self.engine);
        let between: Vec<usize> = what.dilation.iter().map(|d| d.saturating_sub(1)).collect();
        let [stride, dilation, low, high] = [&what.stride, &between, &what.pad_low, &what.pad_high].map(|of| list(of));
        let (mut options, mut forward, mut backward) = (null_mut(), null_mut(), null_mut());
        // SAFETY: all objects are the library's and of the kinds that its functions take, all lists are of twelve.
        unsafe {
            check("attributes", (f.attributes_create)(&raw mut options))?;
            check("attributes", (f.set_scratchpad)(options, SCRATCHPAD_BY_USER))?;
            check("the forward pass", (f.forward)(
                &raw mut forward, engine, FORWARD_TRAINING, DIRECT, x, w_any, null_mut(), y,
                &stride, &dilation, &low, &high, options,
            ))?;
            match what.pass {
                ConvPass::Forward => return Ok(forward),
                ConvPass::Input => check("the input's gradient", (f.backward_data)(
                    &raw mut backward, engine, DIRECT, x, w_any, y,
                    &stride, &dilation, &low, &high, forward, options,
                ))?,
                ConvPass::Kernel => check("the kernel's gradient", (f.backward_weights)(
                    &raw mut backward, engine, DIRECT, x, w_any, null_mut(), y,
                    &stride, &dilation, &low, &high, forward, options,
                ))?,
            }
        }
        Ok(backward)
    }

    /// The primitive that converts the kernel from the program's layout to the wanted one, or a gradient back.
    fn reordered(
        &self,
        own: *const c_void,
        wanted: *const c_void,
        back: bool,
    ) -> Result<Option<(*const c_void, Object)>, String> {
        let (f, engine) = (&self.functions, self.engine);
        // SAFETY: both describe arrays.
        if unsafe { (f.equal)(own, wanted) } != 0 {
            return Ok(None);
        }
        let (from, to) = if back { (wanted, own) } else { (own, wanted) };
        let mut description = null_mut();
        // SAFETY: as above; the out-pointer is valid.
        let status = unsafe { (f.reorder)(&raw mut description, from, engine, to, engine, null_mut()) };
        check("a kernel's other order", status)?;
        Ok(Some((wanted, self.created(description)?)))
    }

    fn created(&self, description: Object) -> Result<Object, String> {
        let mut primitive = null_mut();
        // SAFETY: a description of the library's; the out-pointer is valid.
        let status = unsafe { (self.functions.primitive_create)(&raw mut primitive, description) };
        check("dnnl_primitive_create", status).map(|()| primitive)
    }
}
