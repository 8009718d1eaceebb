//! The parts of a graph that depend on its fixed parameters alone.

use hlo::{Computation, Literal, Op};

/// A graph's first parameters with their values, and what depends on no other one.
pub(super) struct Constants<'a> {
    graph: &'a Computation,
    values: &'a [Literal],
    fixed: Vec<bool>,
}

impl<'a> Constants<'a> {
    /// With values of the graph's first parameters.
    pub fn new(graph: &'a Computation, values: &'a [Literal]) -> Self {
        let mut fixed = Vec::with_capacity(graph.nodes.len());
        for node in &graph.nodes {
            fixed.push(match &node.op {
                Op::Parameter { index, .. } => *index < values.len(),
                _ => node.operands.iter().all(|&operand| fixed[operand]),
            });
        }
        Constants { graph, values, fixed }
    }

    /// Whether a node depends on fixed parameters alone.
    pub fn is_fixed(&self, id: usize) -> bool {
        self.fixed[id]
    }

    /// The elements of a fixed node.
    ///
    /// # Errors
    /// A node that is not fixed.
    pub fn evaluate(&self, id: usize) -> Result<Vec<f64>, String> {
        if !self.fixed[id] {
            return Err(format!("{} depends on the picture", self.graph.nodes[id].op.name()));
        }
        let mut needed = vec![false; id + 1];
        needed[id] = true;
        for at in (0..=id).rev() {
            if needed[at] {
                self.graph.nodes[at]
                    .operands
                    .iter()
                    .for_each(|&operand| needed[operand] = true);
            }
        }
        let mut part = Computation {
            name: "constant".into(),
            nodes: vec![],
            parameters: vec![],
            outputs: vec![],
            matmul_precision: self.graph.matmul_precision,
        };
        let (mut ids, mut arguments) = (vec![0; id + 1], vec![]);
        for at in (0..=id).filter(|&at| needed[at]) {
            let mut node = self.graph.nodes[at].clone();
            node.operands.iter_mut().for_each(|operand| *operand = ids[*operand]);
            ids[at] = part.nodes.len();
            if let Op::Parameter { index, .. } = &mut node.op {
                arguments.push(self.values[*index].clone());
                *index = part.parameters.len();
                part.parameters.push(ids[at]);
            }
            part.nodes.push(node);
        }
        part.outputs.push(ids[id]);
        let results = part.evaluate(&arguments).map_err(|error| error.to_string())?;
        Ok(results.first().map(Literal::to_f64_vec).unwrap_or_default())
    }

    /// One number per channel, the last axis, of a fixed node that has the same along all others.
    ///
    /// # Errors
    /// A node that has not.
    pub fn per_channel(&self, id: usize, channels: usize) -> Result<Vec<f64>, String> {
        let node = &self.graph.nodes[id];
        let (of, along_channels) = match &node.op {
            Op::Broadcast { dims, axes } => (node.operands[0], axes[..] == [dims.len() - 1]),
            _ => (id, node.shape().dims.last() == Some(&channels)),
        };
        let elements = self.graph.nodes[of].shape().elements();
        match elements {
            1 => Ok(vec![self.evaluate(of)?[0]; channels]),
            _ if along_channels && elements == channels => self.evaluate(of),
            _ => Err(format!("a constant {} has not one number per channel", node.shape())),
        }
    }

    /// The values of a kernel, and which of its connections there are, where a mask says so.
    ///
    /// # Errors
    /// A kernel that is not fixed, or not f32.
    pub fn kernel(&self, id: usize) -> Result<(Vec<f32>, Option<Vec<bool>>), String> {
        let node = &self.graph.nodes[id];
        match &node.op {
            Op::Reshape { .. } => return self.kernel(node.operands[0]),
            Op::Parameter { .. } => {
                if let Some(values) = self.parameter(id).and_then(Literal::to_vec) {
                    return Ok((values, None));
                }
            }
            Op::Select => {
                let [mask, weights, zeros] = [0, 1, 2].map(|i| node.operands[i]);
                let mask = self.parameter(mask).and_then(Literal::to_bools);
                let weights = self.parameter(weights).and_then(Literal::to_vec);
                let zero = self.per_channel(zeros, 1).is_ok_and(|zeros| zeros == [0.0]);
                if let (Some(mask), Some(weights), true) = (mask, weights, zero) {
                    return Ok((weights, Some(mask)));
                }
            }
            _ => {}
        }
        let values = self.evaluate(id)?;
        Ok((values.iter().map(|&value| value as f32).collect(), None))
    }

    /// The value of a fixed parameter.
    fn parameter(&self, id: usize) -> Option<&'a Literal> {
        match &self.graph.nodes[id].op {
            Op::Parameter { index, .. } => self.values.get(*index),
            _ => None,
        }
    }
}
