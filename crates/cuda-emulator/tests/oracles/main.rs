//! The emulator's operations against what others say they give: ptxas, folding constants, and
//! `CuTe`'s fragment layouts. The scripts beside this file make the tables.

mod folding;
mod layouts;
