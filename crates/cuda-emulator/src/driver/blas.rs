//! cuBLASLt: products of column-major matrices, multiplied here instead of by the library's kernels.
//!
//! As strict as the library: what it would refuse, or take only by luck, is refused. Sums are f32, in the order of
//! the depth; the library's order is its own.

use half::bf16;

use crate::driver::{
    error::{Code, Status},
    state::{Id, State, Table},
    work::Action,
};

/// Pointers must be multiples of this unless a preference says less, which is not supported here.
const ALIGNMENT: u64 = 256;

/// `cudaDataType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    F32,
    Bf16,
}

impl Element {
    pub(crate) fn new(data_type: u32) -> Status<Self> {
        match data_type {
            0 => Ok(Self::F32),
            14 => Ok(Self::Bf16),
            _ => Err(Code::NOT_SUPPORTED),
        }
    }

    const fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }

    fn decode(self, bytes: &[u8]) -> f32 {
        match self {
            Self::F32 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            Self::Bf16 => bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
        }
    }

    fn encode(self, value: f32) -> Vec<u8> {
        match self {
            Self::F32 => value.to_le_bytes().into(),
            Self::Bf16 => bf16::from_f32(value).to_le_bytes().into(),
        }
    }
}

/// `cublasLtMatrixLayout_t`: column-major, `ld` elements from a column to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) element: Element,
    pub(crate) rows: u64,
    pub(crate) cols: u64,
    pub(crate) ld: u64,
}

impl Layout {
    /// Bytes from the first element to behind the last.
    pub(crate) fn extent(self) -> u64 {
        ((self.cols - 1) * self.ld + self.rows) * self.element.bytes()
    }

    fn shape(self, transposed: bool) -> (u64, u64) {
        if transposed { (self.cols, self.rows) } else { (self.rows, self.cols) }
    }
}

/// `cublasLtMatmulDesc_t`: whether A and B are transposed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Description {
    pub(crate) transposed: [bool; 2],
}

/// `cublasLtMatmulPreference_t`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Preference {
    pub(crate) workspace: u64,
}

/// What the process made of the library.
#[derive(Debug)]
pub(crate) struct Blas {
    pub(crate) handles: Table<()>,
    pub(crate) layouts: Table<Layout>,
    pub(crate) descriptions: Table<Description>,
    pub(crate) preferences: Table<Preference>,
}

impl Default for Blas {
    fn default() -> Self {
        let unknown = Code::INVALID_VALUE;
        Self {
            handles: Table::new(unknown),
            layouts: Table::new(unknown),
            descriptions: Table::new(unknown),
            preferences: Table::new(unknown),
        }
    }
}

/// A matrix in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix {
    pub(crate) address: u64,
    pub(crate) layout: Layout,
}

/// D = alpha . op(A) . op(B) + beta . C.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product {
    pub(crate) transposed: [bool; 2],
    pub(crate) a: Matrix,
    pub(crate) b: Matrix,
    pub(crate) c: Matrix,
    pub(crate) d: Matrix,
    pub(crate) alpha: f32,
    pub(crate) beta: f32,
    /// Address and bytes; 0 bytes are none.
    pub(crate) workspace: (u64, u64),
}

/// Rows, columns and depth of a product of these layouts; an error if they do not meet.
pub(crate) fn size(transposed: [bool; 2], [a, b, c, d]: [Layout; 4]) -> Status<(u64, u64, u64)> {
    let ((m, k), (depth, n)) = (a.shape(transposed[0]), b.shape(transposed[1]));
    let meet = k == depth && (d.rows, d.cols) == (m, n) && (c.rows, c.cols) == (m, n);
    let types = a.element == b.element && c.element == d.element;
    if !meet {
        Err(Code::INVALID_VALUE)
    } else if !types {
        Err(Code::NOT_SUPPORTED)
    } else {
        Ok((m, n, k))
    }
}

impl Product {
    /// Floating-point operations.
    pub(crate) fn flops(&self) -> u64 {
        let (m, k) = self.a.layout.shape(self.transposed[0]);
        2 * m * k * self.d.layout.cols
    }

    /// D's columns from those of the other matrices; C has none where beta is 0.
    pub(crate) fn columns(&self, [a, b, c]: [Vec<Vec<f32>>; 3]) -> Vec<Vec<f32>> {
        let rows = if self.transposed[0] { a } else { transpose(&a) };
        let columns = if self.transposed[1] { transpose(&b) } else { b };
        let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).fold(0.0, |sum, (x, y)| sum + x * y);
        let column = |(j, column): (usize, &Vec<f32>)| {
            let element = |(i, row): (usize, &Vec<f32>)| {
                let old = c.get(j).map_or(0.0, |column| self.beta * column[i]);
                self.alpha * dot(row, column) + old
            };
            rows.iter().enumerate().map(element).collect()
        };
        columns.iter().enumerate().map(column).collect()
    }
}

fn transpose(columns: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let rows = columns.first().map_or(0, Vec::len);
    (0..rows).map(|row| columns.iter().map(|column| column[row]).collect()).collect()
}

impl Matrix {
    /// Address and bytes of each column.
    pub(crate) fn runs(self) -> impl Iterator<Item = (u64, u64)> {
        let Self { address, layout: Layout { element, rows, cols, ld } } = self;
        (0..cols).map(move |col| (address + col * ld * element.bytes(), rows * element.bytes()))
    }

    pub(crate) fn decode(self, bytes: &[u8]) -> Vec<f32> {
        let element = self.layout.element;
        bytes.chunks_exact(element.bytes() as usize).map(|chunk| element.decode(chunk)).collect()
    }

    pub(crate) fn encode(self, values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|&value| self.layout.element.encode(value)).collect()
    }
}

impl State {
    /// `cublasLtMatmul`, of layouts that meet.
    pub(crate) fn multiply(&mut self, stream: Id, product: Product) -> Status {
        const CALL: &str = "cublasLtMatmul";
        let stream = self.stream(stream)?;
        let Product { a, b, c, d, .. } = product;
        if c.address == d.address && c.layout != d.layout {
            return Err(Code::INVALID_VALUE);
        }
        let addresses = [a, b, c, d].map(|matrix| matrix.address);
        if addresses.into_iter().chain([product.workspace.0]).any(|at| at % ALIGNMENT != 0) {
            self.journal.warn(format!(
                "{CALL}: addresses {addresses:x?} that are no multiples of {ALIGNMENT}, as the heuristic supposes"
            ));
            return Err(Code::INVALID_VALUE);
        }
        self.submit(stream, CALL, Action::Multiply(Box::new(product))).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(element: Element, rows: u64, cols: u64) -> Layout {
        Layout { element, rows, cols, ld: rows }
    }

    #[test]
    fn layouts_must_meet() {
        let f = |rows, cols| layout(Element::F32, rows, cols);
        assert_eq!(size([false, false], [f(2, 3), f(3, 4), f(2, 4), f(2, 4)]), Ok((2, 4, 3)));
        assert_eq!(size([true, false], [f(3, 2), f(3, 4), f(2, 4), f(2, 4)]), Ok((2, 4, 3)));
        assert!(size([true, false], [f(2, 3), f(3, 4), f(2, 4), f(2, 4)]).is_err());
        assert!(size([false, true], [f(2, 3), f(3, 4), f(2, 4), f(2, 4)]).is_err());
        assert!(size([false, false], [f(2, 3), f(3, 4), f(4, 2), f(2, 4)]).is_err());
    }

    #[test]
    fn columns_are_those_of_the_definition() {
        // A = [[1, 2], [3, 4]], B = [[5, 6], [7, 8]], by columns.
        let (a, b) = ([vec![1.0, 3.0], vec![2.0, 4.0]], [vec![5.0, 7.0], vec![6.0, 8.0]]);
        let ones = [vec![1.0, 1.0], vec![1.0, 1.0]];
        let matrix = Matrix { address: 0, layout: layout(Element::F32, 2, 2) };
        for (transposed, expected) in [
            ([false, false], [[19.0, 43.0], [22.0, 50.0]]),
            ([true, false], [[26.0, 38.0], [30.0, 44.0]]),
            ([false, true], [[17.0, 39.0], [23.0, 53.0]]),
        ] {
            let product = Product {
                transposed,
                a: matrix,
                b: matrix,
                c: matrix,
                d: matrix,
                alpha: 2.0,
                beta: 3.0,
                workspace: (0, 0),
            };
            let found = product.columns([a.to_vec(), b.to_vec(), ones.to_vec()]);
            assert_eq!(found, expected.map(|column| column.map(|x| 2.0 * x + 3.0).to_vec()));
        }
    }
}
