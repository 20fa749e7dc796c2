"""What `flash_attn_with_kvcache` does before it attends: k and v are appended, their slots, lengths and scales found.

Nothing is read from the device: lengths and tables may be another's work that is still queued.
"""

from . import _asked
from ._asked import BLHD


def _check_new(q, k_cache, v_cache, k, v, cache_seqlens):
    _asked.check_dimensions(BLHD, q=q, k=k, v=v)
    for name, new, cache in (("k", k, k_cache), ("v", v, v_cache)):
        wanted = [q.shape[0], k.shape[1], *cache.shape[2:]]
        if list(new.shape) != wanted:
            raise ValueError(
                f"{name} is {list(new.shape)}: {wanted} is wanted, with the batch of q and the heads of {name}_cache"
            )
    if cache_seqlens is None:
        raise ValueError("k and v are given and cache_seqlens is None: it says behind how many keys they are written")


def _check_room(cache_seqlens, new, room):
    if not 0 <= cache_seqlens <= room - new:
        more = f" with the {new} of k" if new else ""
        raise ValueError(f"cache_seqlens is {cache_seqlens}: the cache has room for 0 to {room} keys{more}")


def scales(door, q, k_cache, k_descale, v_descale):
    """What a cache in e4m3 is multiplied by, ones where nothing is given; None for other caches."""
    if not door.is_stored(k_cache):
        _asked.check_unscaled(k_cache, k_descale, v_descale)
        return None, None
    if k_descale is not None and v_descale is not None:
        return k_descale, v_descale
    given = v_descale if k_descale is None else k_descale
    ones = door.ones(q, getattr(given, "shape", 1))
    return ones if k_descale is None else k_descale, ones if v_descale is None else v_descale


def append_and_count(door, q, k_cache, v_cache, k, v, cache_seqlens, block_table):
    """Appends k and v, if they are given, and says what is attended over: both caches, and the sequences' lengths or None."""
    is_paged = block_table is not None
    is_number = isinstance(cache_seqlens, int)
    if is_number or is_paged or k is not None:
        _asked.check_dimensions(BLHD, q=q, k_cache=k_cache, v_cache=v_cache)
    elif cache_seqlens is None:
        return k_cache, v_cache, None
    else:
        return k_cache, v_cache, cache_seqlens
    new = 0
    if k is not None:
        _check_new(q, k_cache, v_cache, k, v, cache_seqlens)
        new = k.shape[1]
    if is_paged:
        door.check_table(q, block_table)
    size = k_cache.shape[1]
    room = block_table.shape[1] * size if is_paged else size
    if is_number:
        _check_room(cache_seqlens, new, room)
    lengths = cache_seqlens
    if is_number or lengths is None:
        lengths = door.equal_lengths(q, cache_seqlens if is_number else room)
    if k is not None:
        door.check_lengths(q, lengths)
        slots = door.slots_behind(lengths, new, size, block_table)
        door.append(k.reshape(-1, *k.shape[2:]), v.reshape(-1, *v.shape[2:]), k_cache, v_cache, slots)
        lengths = lengths + new
    if is_number and not is_paged:
        # Fewer rows of the same memory.
        used = cache_seqlens + new
        return k_cache[:, :used], v_cache[:, :used], None
    return k_cache, v_cache, lengths
