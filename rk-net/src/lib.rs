//! Pod networking: CNI, address management, and the kernel state behind them.
