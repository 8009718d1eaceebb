//! How the layers of a network are computed, and in which order of elements each array lies.

use super::{After, Kind, Step};
use crate::layout::{Halo, Layout, Order};
use crate::stage::PixelStage;

/// Minimum share of connections of layers that are computed as dense ones: from here on vectors of output channels, which use each
/// input many times, win what connections that are not there would save (`scripts/bench/results/sparse_predictions.md`).
const DENSE: f64 = 0.35;

/// How a step is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// From the connections alone, or in the order of the input.
    Plain,
    /// With all weights, by channels.
    Dense,
}

/// A step with its arrays.
#[derive(Clone, Copy, Debug)]
pub(super) struct Routed<'s, 'w> {
    /// `None`: a copy into the other order.
    pub step: Option<&'s Step<'w>>,
    pub way: Way,
    pub from: usize,
    pub to: usize,
    pub residual: Option<usize>,
}

impl Routed<'_, '_> {
    pub fn reads(&self, array: usize) -> bool {
        self.from == array || self.residual == Some(array)
    }
}

/// The steps of a network with copies between them, and the layouts of all arrays.
pub(super) struct Route<'s, 'w> {
    pub steps: Vec<Routed<'s, 'w>>,
    pub layouts: Vec<Layout>,
}

impl<'s, 'w> Route<'s, 'w> {
    /// The route of a batch of features without pixels.
    pub fn of_features(steps: &'s [Step<'w>], shapes: &[[usize; 3]], batch: usize) -> Self {
        let plain = |step: &'s Step<'w>| Routed {
            step: Some(step),
            way: Way::Plain,
            from: step.from,
            to: step.to,
            residual: step.after().and_then(After::residual_array),
        };
        Self {
            steps: steps.iter().map(plain).collect(),
            layouts: shapes.iter().map(|shape| Layout::features(batch, shape[2])).collect(),
        }
    }

    /// The route of one image.
    pub fn of_image(steps: &'s [Step<'w>], shapes: &[[usize; 3]]) -> Self {
        let mut router = Router {
            shapes: shapes.to_vec(),
            orders: vec![Order::Pixels; shapes.len()],
            copies: Vec::new(),
            steps: Vec::new(),
        };
        let mut readers = steps.iter().filter(|step| step.reads(0)).peekable();
        // Dense layers may read NHWC.
        let interleaved = readers.peek().is_some()
            && readers.all(|step| step.after().and_then(After::residual_array) != Some(0) && is_dense(step));
        if interleaved {
            router.orders[0] = Order::Channels;
        }
        for step in steps {
            router.add(step);
        }
        router.route(interleaved)
    }
}

/// Whether a step is a convolution that is computed with all its weights.
fn is_dense(step: &Step<'_>) -> bool {
    match &step.kind {
        Kind::Conv { weights, .. } => !weights.kernel.depthwise && weights.density() >= DENSE,
        Kind::Pool { .. } | Kind::Elementwise { .. } => false,
    }
}

/// Whether a step can be computed in any order.
fn takes_any_order(step: &Step<'_>) -> bool {
    match &step.kind {
        Kind::Conv { weights, .. } => {
            let kernel = &weights.kernel;
            kernel.depthwise && kernel.inputs == kernel.outputs && weights.density() >= DENSE
        }
        Kind::Pool { .. } | Kind::Elementwise { .. } => true,
    }
}

struct Router<'s, 'w> {
    /// Rows, columns and channels of each array.
    shapes: Vec<[usize; 3]>,
    orders: Vec<Order>,
    /// Arrays, and their copies in the other order.
    copies: Vec<[usize; 2]>,
    steps: Vec<Routed<'s, 'w>>,
}

impl<'s, 'w> Router<'s, 'w> {
    fn add(&mut self, step: &'s Step<'w>) {
        let dense = is_dense(step);
        let order = match (dense, takes_any_order(step)) {
            (true, _) => Order::Channels,
            (false, true) => self.orders[step.from],
            (false, false) => Order::Pixels,
        };
        self.orders[step.to] = order;
        let from = self.array(step.from, order);
        let residual = step.after().and_then(After::residual_array);
        let residual = residual.map(|array| self.array(array, order));
        let depthwise = matches!(&step.kind, Kind::Conv { .. }) && order == Order::Channels;
        self.steps.push(Routed {
            step: Some(step),
            way: if dense || depthwise { Way::Dense } else { Way::Plain },
            from,
            to: step.to,
            residual,
        });
    }

    /// The array in this order, copied where it has another.
    fn array(&mut self, array: usize, order: Order) -> usize {
        if self.orders[array] == order {
            return array;
        }
        if let Some([_, copy]) = self.copies.iter().find(|[of, _]| *of == array) {
            return *copy;
        }
        let copy = self.shapes.len();
        self.shapes.push(self.shapes[array]);
        self.orders.push(order);
        self.copies.push([array, copy]);
        self.steps.push(Routed {
            step: None,
            way: Way::Plain,
            from: array,
            to: copy,
            residual: None,
        });
        copy
    }

    fn route(self, interleaved: bool) -> Route<'s, 'w> {
        let layout = |array: usize| {
            let [height, width, channels] = self.shapes[array];
            let halo = self.halo(array);
            match self.orders[array] {
                Order::Channels if array == 0 && interleaved => Layout::interleaved(1, height, width, channels, halo),
                Order::Channels => Layout::channels(1, height, width, channels, halo),
                Order::Lanes | Order::Pixels if height * width == 1 && halo == Halo::default() => {
                    Layout::features(1, channels)
                }
                Order::Lanes | Order::Pixels => Layout::pixels(1, height, width, channels, halo),
            }
        };
        Route {
            layouts: (0..self.shapes.len()).map(layout).collect(),
            steps: self.steps,
        }
    }

    /// The halo shared by all arrays of this order, height and width, so that windows read them without a copy.
    fn halo(&self, of: usize) -> Halo {
        let same =
            |array: usize| self.orders[array] == self.orders[of] && self.shapes[array][..2] == self.shapes[of][..2];
        let mut halo = Halo::default();
        for routed in &self.steps {
            let Some(Kind::Conv { weights, .. }) = routed.step.map(|step| &step.kind) else {
                continue;
            };
            let (window, [rows, columns, _]) = (&weights.window, self.shapes[routed.to]);
            let in_place =
                routed.way == Way::Dense || rows * columns == 1 || window.stride == [1, 1] && same(routed.to);
            if in_place && same(routed.from) {
                let needed = window.halo();
                halo.top = halo.top.max(needed.top);
                halo.bottom = halo.bottom.max(needed.bottom);
                halo.left = halo.left.max(needed.left);
                halo.right = halo.right.max(needed.right);
            } else if routed.way == Way::Plain && same(routed.to) && rows * columns > 1 {
                let gap = PixelStage::gap(&weights.kernel, window, self.shapes[routed.from][1], columns);
                halo.right = halo.right.max(gap);
            }
        }
        halo
    }
}
