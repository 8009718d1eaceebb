"""Small models of different kinds: functions that return loss, parameters, state, key, data and prediction."""

import jax, jax.numpy as jnp, numpy as np
R = np.random.default_rng(0)
def n(*s, k=None): return jnp.array(R.normal(size=s) / np.sqrt(k or s[-2]), jnp.float32)
def ce(logits, y): return -jnp.take_along_axis(jax.nn.log_softmax(logits.astype(jnp.float32)), y[..., None], -1)[..., 0]
def norm(x, p): 
    x = x.astype(jnp.float32); m = x.mean(-1, keepdims=True); v = ((x - m) ** 2).mean(-1, keepdims=True)
    return (x - m) / jnp.sqrt(v + 1e-5) * p['scale'] + p['bias']
def ln(d): return {'scale': jnp.ones(d), 'bias': jnp.zeros(d)}
B = 8
def images(c=4, s=8): return {'image': R.normal(size=(64, s, s, 3)).astype(np.float32), 'label': R.integers(0, c, 64)}

def mlp():
    p = {'a': {'kernel': n(192, 32), 'bias': jnp.zeros(32)}, 'b': [n(32, 16), n(16, 4)]}
    def f(p, x): return jnp.tanh(jax.nn.relu(x.reshape(x.shape[0], -1) @ p['a']['kernel'] + p['a']['bias']) @ p['b'][0]) @ p['b'][1]
    def loss(p, s, b): l = f(p, b['image']); return ce(l, b['label']).mean(), (s, {'accuracy': (l.argmax(-1) == b['label']).mean(), 'top': {'max': l.max()}})
    return loss, p, {}, None, images(), lambda p, s, b: f(p, b['image'])

def attention(p, x, h=2):
    q, k, v = (jnp.einsum('btd,dhk->bthk', x, p[i]) for i in 'qkv')
    a = jax.nn.softmax(jnp.einsum('bthk,bshk->bhts', q, k) / np.sqrt(q.shape[-1]))
    return jnp.einsum('bhts,bshk,hkd->btd', a, v, p['o'])
def block(p, x):
    x = x + attention(p['attn'], norm(x, p['ln1']))
    return x + jax.nn.gelu(norm(x, p['ln2']) @ p['up'], approximate=False) @ p['down']
def blockp(d): return {'ln1': ln(d), 'ln2': ln(d), 'attn': {i: n(d, 2, d // 2, k=d) for i in 'qkv'} | {'o': n(2, d // 2, d, k=d)}, 'up': n(d, 4 * d), 'down': n(4 * d, d)}
def patches(x, s=4): b, h, w, c = x.shape; return x.reshape(b, h // s, s, w // s, s, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, s * s * c)

def vit():
    d = 16
    p = {'embed': n(48, d), 'pos_embedding': n(1, 4, d), 'blocks': [blockp(d) for _ in range(2)], 'ln': ln(d), 'head': n(d, 4)}
    def f(p, x):
        x = patches(x) @ p['embed'] + p['pos_embedding']
        for q in p['blocks']: x = block(q, x)
        return norm(x, p['ln']).mean(1) @ p['head']
    def loss(p, s, b): return ce(f(p, b['image']), b['label']).mean(), s
    return loss, p, {}, None, images(), lambda p, s, b: {'logits': f(p, b['image'])}

def scanned():
    d = 16
    stack = jax.tree_util.tree_map(lambda *x: jnp.stack(x), *[blockp(d) for _ in range(3)])
    p = {'patches': n(48, d), 'blocks': stack, 'head': n(d, 4)}
    def f(p, x):
        x, _ = jax.lax.scan(jax.checkpoint(lambda x, q: (block(q, x), None)), patches(x) @ p['patches'], p['blocks'])
        return x.mean(1) @ p['head']
    def loss(p, s, b): return ce(f(p, b['image']), b['label']).mean(), s
    return loss, p, {}, None, images(), lambda p, s, b: f(p, b['image'])

def conv():
    p = {'c1': n(3, 3, 3, 8, k=27), 'bn1': ln(8), 'c2': n(3, 3, 8, 16, k=72), 'bn2': ln(16), 'head': n(16, 4)}
    s = {f'bn{i}': {'mean': jnp.zeros(c), 'var': jnp.ones(c)} for i, c in ((1, 8), (2, 16))}
    def bn(x, p, s, train):
        if not train: return (x - s['mean']) / jnp.sqrt(s['var'] + 1e-5) * p['scale'] + p['bias'], s
        m, v = x.mean((0, 1, 2)), x.var((0, 1, 2))
        return (x - m) / jnp.sqrt(v + 1e-5) * p['scale'] + p['bias'], {'mean': .9 * s['mean'] + .1 * m, 'var': .9 * s['var'] + .1 * v}
    def f(p, s, x, train):
        t = {}
        for i in '12':
            x = jax.lax.conv_general_dilated(x, p['c' + i], (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
            x, t['bn' + i] = bn(x, p['bn' + i], s['bn' + i], train)
            x = jax.nn.relu(x)
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), 'VALID')
        return x.mean((1, 2)) @ p['head'], t
    def loss(p, s, b): l, t = f(p, s, b['image'], True); return ce(l, b['label']).mean(), t
    return loss, p, s, None, images(), lambda p, s, b: f(p, s, b['image'], False)[0]

def dropout():
    p = {'w1': n(192, 48), 'w2': n(48, 4)}
    def f(p, x, key=None):
        h = jax.nn.relu(x.reshape(x.shape[0], -1) @ p['w1'])
        if key is not None: h = jnp.where(jax.random.bernoulli(key, .5, h.shape), h / .5, 0)
        return h @ p['w2']
    def loss(p, s, b, key): return ce(f(p, b['image'], key), b['label']).mean(), s
    return loss, p, {}, jax.random.key(7), images(), lambda p, s, b: f(p, b['image'])

def language():
    d, v, t = 16, 32, 8
    p = {'embed': n(v, d, k=1), 'blocks': [blockp(d)], 'ln': ln(d), 'out': n(d, v)}
    def f(p, x):
        x = p['embed'][x]
        for q in p['blocks']: x = block(q, x)
        return norm(x, p['ln']) @ p['out']
    def loss(p, s, b): return ce(f(p, b['x']), b['y']).mean(), s
    toks = R.integers(0, v, 64 * t + 1)
    return loss, p, {}, None, {'x': toks[:-1].reshape(64, t).astype(np.uint16), 'y': toks[1:].reshape(64, t)}, lambda p, s, b: f(p, b['x'])

def bf16():
    loss, p, s, k, data, predict = mixer()
    low = lambda p: jax.tree_util.tree_map(lambda x: x.astype(jnp.bfloat16), p)
    return (lambda p, s, b: loss(low(p), s, b)), p, s, k, data, lambda p, s, b: predict(low(p), s, b).astype(jnp.float32)

def mixer():
    d = 16
    p = {'embed': n(48, d), 'blocks': [{'tokens': [n(4, 8), n(8, 4)], 'channels': [n(d, 32), n(32, d)], 'ln1': ln(d), 'ln2': ln(d)} for _ in range(2)], 'head': n(d, 4)}
    def f(p, x):
        x = patches(x).astype(p['embed'].dtype) @ p['embed']
        for q in p['blocks']:
            y = norm(x, q['ln1']).astype(x.dtype).swapaxes(1, 2); x = x + (jax.nn.gelu(y @ q['tokens'][0]) @ q['tokens'][1]).swapaxes(1, 2)
            y = norm(x, q['ln2']).astype(x.dtype); x = x + jax.nn.gelu(y @ q['channels'][0]) @ q['channels'][1]
        return x.mean(1) @ p['head']
    def loss(p, s, b): return ce(f(p, b['image']), b['label']).mean(), s
    return loss, p, {}, None, images(), lambda p, s, b: f(p, b['image'])

MODELS = dict(mlp=mlp, vit=vit, scanned=scanned, conv=conv, dropout=dropout, language=language, mixer=mixer, bf16=bf16)
