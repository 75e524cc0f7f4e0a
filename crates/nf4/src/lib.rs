//! NF4/FP4 block quantisation and double quantisation, bit-exact with bitsandbytes.
