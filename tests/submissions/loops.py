"""A solution as students of the handout wrote it: image by image, window by window, printing as it goes."""

import numpy as np


def pooling_layer_forward(input, layer):
    h_in, w_in, c, batch_size = input['height'], input['width'], input['channel'], input['batch_size']
    k, pad, stride = layer['k'], layer['pad'], layer['stride']
    h_out = int((h_in + 2 * pad - k) / stride + 1)
    w_out = int((w_in + 2 * pad - k) / stride + 1)
    print('pooling', h_out, w_out)
    output = {'height': h_out, 'width': w_out, 'channel': c, 'batch_size': batch_size}
    output['data'] = np.zeros((h_out * w_out * c, batch_size))
    for n in range(batch_size):
        image = input['data'][:, n].reshape(h_in, w_in, c)
        pooled = np.zeros((h_out, w_out, c))
        for i in range(h_out):
            for j in range(w_out):
                pooled[i, j] = image[i * stride:i * stride + k, j * stride:j * stride + k].max(axis=(0, 1))
        output['data'][:, n] = pooled.flatten()
    return output


def pooling_layer_backward(output, input, layer):
    h_in, w_in, c, batch_size = input['height'], input['width'], input['channel'], input['batch_size']
    k, stride = layer['k'], layer['stride']
    h_out, w_out = output['height'], output['width']
    input_od = np.zeros(input['data'].shape)
    for n in range(batch_size):
        image = input['data'][:, n].reshape(h_in, w_in, c)
        diff = output['diff'][:, n].reshape(h_out, w_out, c)
        od = np.zeros((h_in, w_in, c))
        for i in range(h_out):
            for j in range(w_out):
                window = image[i * stride:i * stride + k, j * stride:j * stride + k]
                place = window.reshape(k * k, c).argmax(axis=0)
                od[i * stride + place // k, j * stride + place % k, np.arange(c)] += diff[i, j]
        input_od[:, n] = od.flatten()
    return input_od


def relu_forward(input, layer):
    output = {key: input[key] for key in ('height', 'width', 'channel', 'batch_size')}
    output['data'] = np.maximum(input['data'], 0)
    return output


def relu_backward(output, input, layer):
    return output['diff'] * (input['data'] > 0)


def inner_product_forward(input, layer, param):
    output = {'height': layer['num'], 'width': 1, 'channel': 1, 'batch_size': input['batch_size']}
    output['data'] = np.zeros((layer['num'], input['batch_size']))
    for n in range(input['batch_size']):
        output['data'][:, n] = np.dot(param['w'].T, input['data'][:, n]) + param['b']
    return output


def inner_product_backward(output, input, layer, param):
    param_grad = {'w': np.zeros(param['w'].shape), 'b': np.zeros(param['b'].shape)}
    input_od = np.zeros(input['data'].shape)
    for n in range(input['batch_size']):
        param_grad['w'] += np.outer(input['data'][:, n], output['diff'][:, n])
        param_grad['b'] += output['diff'][:, n]
        input_od[:, n] = np.dot(param['w'], output['diff'][:, n])
    return param_grad, input_od


def sgd_momentum(w_rate, b_rate, mu, decay, params, param_winc, param_grad):
    params_, param_winc_ = {}, {}
    for i in params:
        w_winc = mu * param_winc[i]['w'] + w_rate * (param_grad[i]['w'] + decay * params[i]['w'])
        b_winc = mu * param_winc[i]['b'] + b_rate * param_grad[i]['b']
        param_winc_[i] = {'w': w_winc, 'b': b_winc}
        params_[i] = {'w': params[i]['w'] - w_winc, 'b': params[i]['b'] - b_winc}
    return params_, param_winc_
