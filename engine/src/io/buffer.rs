//! Memory that travels with disk operations: aligned, zeroed at first, on huge pages where it is large.
//!
//! Owns every raw allocation of the engine. A `Buffer` has one owner at a time, so that nobody can look at memory
//! while the kernel uses it. A `BufferPool` is one arena cut into equal buffers; an arena can be registered with a
//! ring as a whole, and lives until the last of its buffers and rings is gone.
//!
//! Must never: hand out the same bytes twice, or free them while an operation carries them.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::limits::ALIGNMENT;

/// Size and alignment of a huge page on the machines we run on. Where it differs, the advice does less and nothing breaks.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Owned bytes whose start and length are multiples of 4096.
pub struct Buffer {
    start: NonNull<u8>,
    bytes: usize,
    home: Home,
}

enum Home {
    /// Allocated for this buffer alone.
    Own { _arena: Arena },
    /// A part of a pool's arena that no other buffer covers.
    Pool(Arc<Arena>),
}

// SAFETY: a `Buffer` is the only way to its bytes, in the way of a `Box<[u8]>`; bytes have no thread.
#[expect(unsafe_code, reason = "owned raw memory")]
unsafe impl Send for Buffer {}
// SAFETY: `&Buffer` gives `&[u8]` and nothing else.
#[expect(unsafe_code, reason = "owned raw memory")]
unsafe impl Sync for Buffer {}

impl Buffer {
    /// At least `bytes` zeros, rounded up to a multiple of 4096; on huge pages from 2 MiB on.
    ///
    /// # Panics
    /// Aborts when memory is exhausted, as every allocation does.
    pub fn new(bytes: usize) -> Buffer {
        let arena = Arena::new(bytes);
        Buffer { start: arena.start, bytes: arena.bytes, home: Home::Own { _arena: arena } }
    }

    /// Whether the buffer is a part of `arena`: what decides on registered writes.
    pub(super) fn is_part_of(&self, arena: &Arc<Arena>) -> bool {
        match &self.home {
            Home::Own { .. } => false,
            Home::Pool(home) => Arc::ptr_eq(home, arena),
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    #[expect(unsafe_code, reason = "owned raw memory")]
    fn deref(&self) -> &[u8] {
        // SAFETY: `start..start + bytes` is initialized memory that `home` keeps alive, and no other buffer covers it.
        // The borrow of `self` keeps writers away.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }
}

impl DerefMut for Buffer {
    #[expect(unsafe_code, reason = "owned raw memory")]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; the borrow of `self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.bytes)
    }
}

/// What a [`FileMemory`] keeps from one file to the next. A full segment's index has 29 MiB.
const FILE_MEMORY_KEPT_BYTES_MAX: usize = 64 << 20;

/// Memory in which whole files are made, one at a time: aligned, so that they are written past the page cache, and kept, since
/// new memory costs more than what is written into it.
#[derive(Debug)]
pub struct FileMemory {
    buffer: Buffer,
}

impl Default for FileMemory {
    fn default() -> FileMemory {
        FileMemory { buffer: Buffer::new(0) }
    }
}

impl FileMemory {
    /// Gives back what is more than a segment's files need: the run of a large directory is made seldom.
    pub fn trim(&mut self) {
        if FILE_MEMORY_KEPT_BYTES_MAX < self.buffer.len() {
            self.buffer = Buffer::new(0);
        }
    }

    /// `bytes` of whatever the last file left there.
    pub fn take(&mut self, bytes: usize) -> &mut [u8] {
        if self.buffer.len() < bytes {
            // The old one goes first: they are never there together.
            self.buffer = Buffer::new(0);
            self.buffer = Buffer::new(bytes.next_multiple_of(HUGE_PAGE_BYTES));
        }
        &mut self.buffer[..bytes]
    }
}

/// Equal buffers cut from one arena on huge pages, all of it resident from the start.
pub struct BufferPool {
    arena: Arc<Arena>,
    free: Vec<Buffer>,
    bytes_each: usize,
}

impl BufferPool {
    /// `count` buffers of `bytes_each`, rounded up to a multiple of 4096.
    pub fn new(count: usize, bytes_each: usize) -> BufferPool {
        let bytes_each = bytes_each.max(1).next_multiple_of(ALIGNMENT);
        let total_bytes = bytes_each.checked_mul(count).expect("a pool is configured below the size of memory");
        let arena = Arc::new(Arena::new(total_bytes));
        arena.touch();
        let free = (0..count).rev().map(|index| arena.clone().part(index * bytes_each, bytes_each)).collect();
        BufferPool { arena, free, bytes_each }
    }

    /// A buffer with whatever its last user left in it; `None` when all are out.
    pub fn take(&mut self) -> Option<Buffer> {
        self.free.pop()
    }

    /// Takes a buffer back. One that is not of this pool is freed. One of the pool that is dropped elsewhere stays
    /// lost to the pool, until the pool itself goes.
    pub fn put(&mut self, buffer: Buffer) {
        if buffer.is_part_of(&self.arena) {
            self.free.push(buffer);
        }
    }

    pub fn bytes_each(&self) -> usize {
        self.bytes_each
    }

    /// Buffers that `take` can still give.
    pub fn free_count(&self) -> usize {
        self.free.len()
    }

    pub(super) fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BufferPool({} free of {} bytes each)", self.free.len(), self.bytes_each)
    }
}

/// One allocation: zeroed, 4096-aligned; mapped and 2 MiB aligned from 2 MiB on.
pub(super) struct Arena {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: an `Arena` has no access to its bytes of its own but `touch`, which only its creator calls; it says where
// they are and frees them.
#[expect(unsafe_code, reason = "owned raw memory")]
unsafe impl Send for Arena {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "owned raw memory")]
unsafe impl Sync for Arena {}

impl Arena {
    fn new(bytes: usize) -> Arena {
        let bytes = bytes.max(1).next_multiple_of(ALIGNMENT);
        let start = if bytes < HUGE_PAGE_BYTES { allocate(bytes) } else { map_huge(bytes) };
        Arena { start, bytes }
    }

    pub(super) fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Writes to every page, so that none of it is missing later, in the middle of a turn.
    #[expect(unsafe_code, reason = "owned raw memory")]
    fn touch(&self) {
        for offset in (0..self.bytes).step_by(ALIGNMENT) {
            // SAFETY: inside the allocation, and called before any buffer covers it.
            unsafe { self.start.as_ptr().add(offset).write_volatile(0) };
        }
    }

    /// The caller cuts parts that do not overlap.
    #[expect(unsafe_code, reason = "owned raw memory")]
    fn part(self: Arc<Arena>, offset: usize, bytes: usize) -> Buffer {
        assert!(offset + bytes <= self.bytes);
        // SAFETY: the offset lies inside the allocation, so the sum is neither null nor out of bounds.
        let start = unsafe { self.start.add(offset) };
        Buffer { start, bytes, home: Home::Pool(self) }
    }
}

impl Drop for Arena {
    #[expect(unsafe_code, reason = "owned raw memory")]
    fn drop(&mut self) {
        if self.bytes < HUGE_PAGE_BYTES {
            // SAFETY: allocated by `allocate` with this very layout; the last owner is going.
            unsafe { dealloc(self.start.as_ptr(), layout(self.bytes)) };
        } else {
            // SAFETY: mapped by `map_huge` with this length; the last owner is going. It cannot fail for a whole mapping.
            let _ = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) };
        }
    }
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, ALIGNMENT).expect("a buffer is smaller than the address space")
}

#[expect(unsafe_code, reason = "owned raw memory")]
fn allocate(bytes: usize) -> NonNull<u8> {
    let layout = layout(bytes);
    // SAFETY: the size is not zero: `Arena::new` rounds up.
    let start = unsafe { alloc_zeroed(layout) };
    NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout))
}

/// Maps `bytes` at a 2 MiB boundary: a mapping with room to spare, less what hangs over on both sides.
#[expect(unsafe_code, reason = "owned raw memory")]
fn map_huge(bytes: usize) -> NonNull<u8> {
    let mapped_bytes = bytes.checked_add(HUGE_PAGE_BYTES).expect("a buffer is smaller than the address space");
    // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches nothing of ours.
    let mapped = unsafe {
        mmap_anonymous(std::ptr::null_mut(), mapped_bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
    };
    let Ok(mapped) = mapped else { handle_alloc_error(layout(bytes)) };
    let mapped = mapped.cast::<u8>();
    let head_bytes = mapped.align_offset(HUGE_PAGE_BYTES);
    let tail_bytes = mapped_bytes - head_bytes - bytes;
    // SAFETY: head, body and tail partition the mapping made above; nobody knows any of it yet.
    // A failed unmap costs address space, a failed advice costs speed.
    unsafe {
        let start = mapped.add(head_bytes);
        if head_bytes > 0 {
            let _ = munmap(mapped.cast(), head_bytes);
        }
        if tail_bytes > 0 {
            let _ = munmap(start.add(bytes).cast(), tail_bytes);
        }
        let _ = madvise(start.cast(), bytes, Advice::LinuxHugepage);
        NonNull::new_unchecked(start)
    }
}

/// Asks the memory for a value that is looked at soon, without waiting for it.
#[inline(always)]
#[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "a hint of the instruction set"))]
pub fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint changes nothing and faults nowhere, and the address is that of a reference.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

/// An empty vector whose spare memory asks for huge pages: for the large tables that are filled once and hit at random.
#[expect(unsafe_code, reason = "advice on memory of our own")]
pub fn huge_vec<T: Copy>(capacity: usize) -> Vec<T> {
    let mut vec: Vec<T> = Vec::with_capacity(capacity);
    let spare = vec.spare_capacity_mut();
    let spare_bytes = size_of_val(spare);
    let start = spare.as_mut_ptr().cast::<u8>();
    let head_bytes = start.align_offset(ALIGNMENT);
    if spare_bytes >= HUGE_PAGE_BYTES && head_bytes < spare_bytes {
        let inside_bytes = (spare_bytes - head_bytes) / ALIGNMENT * ALIGNMENT;
        // SAFETY: whole pages inside memory that `vec` owns; the advice changes no content. It may fail: then pages stay small.
        let _ = unsafe { madvise(start.add(head_bytes).cast(), inside_bytes, Advice::LinuxHugepage) };
    }
    vec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_zeroed_and_rounded_up() {
        for bytes in [0, 1, 4096, 4097, HUGE_PAGE_BYTES - 1, HUGE_PAGE_BYTES, HUGE_PAGE_BYTES + 5000] {
            let mut buffer = Buffer::new(bytes);
            assert_eq!(buffer.len(), bytes.max(1).next_multiple_of(ALIGNMENT));
            assert_eq!(buffer.as_ptr().align_offset(ALIGNMENT), 0);
            assert!(buffer.iter().all(|byte| *byte == 0));
            buffer.fill(7);
            assert!(buffer.iter().all(|byte| *byte == 7));
        }
    }

    #[test]
    fn a_pool_gives_each_buffer_once_and_takes_back_only_its_own() {
        let mut pool = BufferPool::new(3, 5000);
        assert_eq!(pool.bytes_each(), 8192);
        let mut taken: Vec<Buffer> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!(taken.len(), 3);
        for (index, buffer) in taken.iter_mut().enumerate() {
            buffer.fill(index as u8 + 1);
        }
        for (index, buffer) in taken.iter().enumerate() {
            assert!(buffer.iter().all(|byte| *byte == index as u8 + 1));
        }
        pool.put(Buffer::new(8192));
        assert_eq!(pool.free_count(), 0);
        for buffer in taken {
            pool.put(buffer);
        }
        assert_eq!(pool.free_count(), 3);
    }

    #[test]
    fn a_buffer_outlives_its_pool() {
        let mut pool = BufferPool::new(2, HUGE_PAGE_BYTES);
        let mut buffer = pool.take().expect("two are free");
        drop(pool);
        buffer.fill(9);
        assert_eq!(buffer[HUGE_PAGE_BYTES - 1], 9);
    }

    #[test]
    fn memory_for_files_is_aligned_and_kept_unless_it_is_large() {
        let mut memory = FileMemory::default();
        let small = memory.take(5000).as_ptr();
        assert_eq!(small.align_offset(ALIGNMENT), 0);
        assert_eq!(memory.take(1).as_ptr(), small);
        assert_eq!(memory.take(FILE_MEMORY_KEPT_BYTES_MAX + 1).len(), FILE_MEMORY_KEPT_BYTES_MAX + 1);
        memory.trim();
        assert_eq!(memory.take(10).len(), 10);
        assert!(memory.buffer.len() <= FILE_MEMORY_KEPT_BYTES_MAX);
    }

    #[test]
    fn a_huge_vec_is_an_ordinary_vec() {
        for capacity in [0, 10, 1 << 20] {
            let mut vec = huge_vec::<u64>(capacity);
            assert!(vec.capacity() >= capacity);
            vec.extend((0..capacity as u64).take(100));
            assert!(vec.iter().enumerate().all(|(index, value)| *value == index as u64));
        }
    }
}
