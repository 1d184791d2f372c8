//! What the kernel programs and the agent must agree on.
#![no_std]
