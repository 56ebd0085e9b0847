// direct -- Session.run without the interpreter: arrays in, one call of sx_main, arrays out, called by CPython itself.
//
// It serves the usual run alone: a dict with exactly the model's inputs, each a numpy array whose dtype, rank, dims,
// alignment and contiguity pass the checks here. For anything else, and when the run fails, it gives None, and the
// caller does it all again in Python, which says what is wrong. Freestanding like the pool: functions of CPython (its
// stable ABI) and numpy (its C API) come in as a table, so there is nothing to link and no header to compile against.
// The interpreter's lock is given back while the model runs; inputs and outputs are held by references of this call.
#include "sardonyx.h"

typedef intptr_t ssize;
typedef struct object object;
struct object {
    ssize references;
    object *type;
};

typedef struct { // the head of numpy's PyArrayObject, the same since numpy 1.0; runtime/direct.py checks it
    object head;
    char *data;
    int rank;
    ssize *dims, *strides;
    object *base, *dtype;
    int flags;
} array;

enum { C_CONTIGUOUS = 1, ALIGNED = 0x100 };

typedef struct { // the order is known to runtime/direct.py
    object *none, *dict_type, *array_type;
    void *(*long_as_pointer)(object *);
    void (*increase)(object *);
    void (*decrease)(object *);
    void (*clear_error)(void);
    void *(*give_lock)(void);
    void (*take_lock)(void *);
    ssize (*dict_size)(object *);
    object *(*dict_get)(object *, object *); // borrowed
    object *(*dict_new)(void);
    int (*dict_set)(object *, object *, object *);
    object *(*list_new)(ssize);
    int (*list_set)(object *, ssize, object *); // takes over the item
    object *(*make_float)(double);
    // Takes over the dtype. (subtype, dtype, rank, dims, strides, data, flags, owner)
    object *(*make_array)(object *, object *, int, const ssize *, const ssize *, void *, int, object *);
} python;

static const python *py;

enum { AS_ARRAY, AS_MAPS, AS_STRINGS };

typedef struct {
    object *name, *dtype;
    const int64_t *dims;    // of an input: the extent, or -1 - s where it is that of symbol s
    int64_t rank;
    int64_t form;           // of an output: AS_*
    object *const *labels;  // AS_MAPS: keys of the row's elements; AS_STRINGS: what each index stands for
    int64_t label_count;
    object *result_dtype;   // AS_STRINGS: numpy's object
} port;

typedef struct {
    sx_host *host;
    sx_call *call;
    int64_t (*main)(sx_host *, sx_call *);
    void (*output_dims)(const int64_t *, int64_t *);
    const port *inputs, *outputs;
    int64_t input_count, output_count, symbols;
    int64_t *given;         // [symbols]: room for those of this run
    object **held;          // [input_count + output_count]
} direct;

// Whether `value` is what `p` asks for; symbols get their extents in the order in which they first appear.
static int fits(const direct *d, const port *p, object *value, int64_t *defined) {
    const array *const a = (const array *)value;
    if (value->type != py->array_type || a->dtype != p->dtype || a->rank != p->rank) return 0;
    if ((a->flags & (C_CONTIGUOUS | ALIGNED)) != (C_CONTIGUOUS | ALIGNED)) return 0;
    for (int64_t axis = 0; axis < p->rank; axis++) {
        const int64_t expected = p->dims[axis], symbol = -1 - expected;
        if (expected < 0 && symbol == *defined)
            d->given[(*defined)++] = a->dims[axis];
        else if (a->dims[axis] != (expected < 0 ? d->given[symbol] : expected))
            return 0;
    }
    return 1;
}

static int take_inputs(const direct *d, object *feeds) {
    int64_t defined = 0;
    if (feeds->type != py->dict_type || py->dict_size(feeds) != d->input_count) return 0;
    for (int64_t i = 0; i < d->input_count; i++) {
        object *const value = py->dict_get(feeds, d->inputs[i].name);
        if (!value) return 0;
        py->increase(value);
        d->held[i] = value;
        if (!fits(d, &d->inputs[i], value, &defined)) return 0;
        d->call->buffers[i] = ((array *)value)->data;
    }
    return defined == d->symbols;
}

static int make_outputs(const direct *d) {
    int64_t *dims = d->call->dims;
    int same = 1;
    for (int64_t s = 0; s < d->symbols; s++) same &= dims[s] == d->given[s];
    if (!same) {
        for (int64_t s = 0; s < d->symbols; s++) dims[s] = d->given[s];
        d->output_dims(dims, dims + d->symbols);
    }
    dims += d->symbols;
    for (int64_t i = 0; i < d->output_count; i++) {
        const port *const p = &d->outputs[i];
        ssize shape[64];
        for (int64_t axis = 0; axis < p->rank; axis++) {
            if (dims[axis] < 0) return 0;
            shape[axis] = (ssize)dims[axis];
        }
        dims += p->rank;
        py->increase(p->dtype);
        object *const made = py->make_array(py->array_type, p->dtype, (int)p->rank, shape, 0, 0, 0, 0);
        if (!made) return 0;
        d->held[d->input_count + i] = made;
        d->call->buffers[d->input_count + i] = ((array *)made)->data;
    }
    return 1;
}

// Rows of float scores as a list of dicts from label to score.
static object *maps_of(const port *p, const array *scores) {
    const float *values = (const float *)scores->data;
    const ssize rows = scores->rank > 1 ? scores->dims[0] : 1;
    object *const list = py->list_new(rows);
    for (ssize row = 0; list && row < rows; row++) {
        object *const map = py->dict_new();
        int failed = !map;
        for (int64_t k = 0; !failed && k < p->label_count; k++) {
            object *const value = py->make_float(*values++);
            failed = !value || py->dict_set(map, p->labels[k], value);
            if (value) py->decrease(value);
        }
        if (failed || py->list_set(list, row, map)) {
            if (failed && map) py->decrease(map);
            py->decrease(list);
            return 0;
        }
    }
    return list;
}

// Indices as an array of strings.
static object *strings_of(const port *p, const array *indices) {
    const int64_t *const index = (const int64_t *)indices->data;
    py->increase(p->result_dtype);
    object *const made = py->make_array(py->array_type, p->result_dtype, indices->rank, indices->dims, 0, 0, 0, 0);
    if (!made) return 0;
    object **const items = (object **)((array *)made)->data;
    ssize count = 1;
    for (int axis = 0; axis < indices->rank; axis++) count *= indices->dims[axis];
    for (ssize i = 0; i < count; i++) {
        if (index[i] < 0 || index[i] >= p->label_count) {
            py->decrease(made);
            return 0;
        }
        object *const before = items[i]; // NULL or None
        py->increase(p->labels[index[i]]);
        items[i] = p->labels[index[i]];
        if (before) py->decrease(before);
    }
    return made;
}

// The list of results, which takes over all outputs; NULL when something failed.
static object *results_of(const direct *d) {
    object *const list = py->list_new((ssize)d->output_count);
    for (int64_t i = 0; list && i < d->output_count; i++) {
        const port *const p = &d->outputs[i];
        object **const made = &d->held[d->input_count + i], *result = *made;
        if (p->form == AS_ARRAY)
            *made = 0;
        else
            result = p->form == AS_MAPS ? maps_of(p, (array *)*made) : strings_of(p, (array *)*made);
        if (!result || py->list_set(list, (ssize)i, result)) {
            py->decrease(list);
            return 0;
        }
    }
    return list;
}

// What Python calls: the run described by the `direct` at the address that `self` holds, for the inputs `feeds`.
static object *run(object *self, object *feeds) {
    const direct *const d = py->long_as_pointer(self);
    object *results = 0;
    if (take_inputs(d, feeds) && make_outputs(d)) {
        void *const thread = py->give_lock();
        const int64_t error = d->main(d->host, d->call);
        py->take_lock(thread);
        if (!error) results = results_of(d);
    }
    for (int64_t i = 0; i < d->input_count + d->output_count; i++) {
        object *const held = d->held[i];
        d->held[i] = 0;
        if (held) py->decrease(held);
    }
    if (results) return results;
    py->clear_error();
    py->increase(py->none);
    return py->none;
}

// CPython's PyMethodDef; 8 is METH_O.
static const struct {
    const char *name;
    object *(*function)(object *, object *);
    int flags;
    const char *text;
} method = {"run_direct", run, 8, "Results of a run, or None where Python has to do it."};

// For PyCFunction_NewEx. The functions given here stay the same for the life of the process.
const void *sx_direct_method(const python *functions) {
    py = functions;
    return &method;
}
