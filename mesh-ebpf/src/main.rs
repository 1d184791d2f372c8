//! Undermesh's kernel programs: one file per hook. An entry reads its context, asks mesh-common's decision, and writes
//! the verdict; everything that can be decided without the kernel is decided (and tested) in mesh-common.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(internal_features)]

mod connect;
mod context;
mod facts;
mod getpeername;
mod maps;
mod report;
mod sk_msg;
mod sock_ops;

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier proves that no program gets here.
    loop {}
}

/// Helpers marked `gpl_only` by the kernel ask for it.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
